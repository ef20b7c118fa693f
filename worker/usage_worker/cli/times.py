"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import typer


def utc_time(text: str) -> datetime:
    """Read a time by ISO 8601, or as a table shows it; without an offset it is UTC.

    Raises:
        BadParameter: the text is not a time.
    """
    try:
        time = datetime.fromisoformat(text.removesuffix(" UTC"))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        example = "2026-01-31, 2026-01-31T23:00:00 or 2026-01-31T23:00:00+00:00"
        raise typer.BadParameter(f"{text!r} is not a time by ISO 8601, such as {example}") from None
