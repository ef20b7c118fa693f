"""What an anomaly means, in plain words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usage_worker.store import Anomaly

TOTAL_NAME = "all agents"
SECOND_MS = 1_000


def subject(anomaly: Anomaly) -> str:
    """Return the name of the agent, its id where it was deleted, or that it is the total."""
    return TOTAL_NAME if anomaly.agent_id is None else anomaly.agent or str(anomaly.agent_id)


def meaning(anomaly: Anomaly) -> str:
    """Return one line that says what was observed and what was expected."""
    observed, expected = anomaly.observed, anomaly.expected
    if anomaly.kind == "silence":
        return f"no use, where {expected:,.0f} were expected since then"
    hour = utc(datetime.fromisoformat(anomaly.baseline["hour"]))
    if anomaly.kind == "cost":
        # Where next to nothing was expected, a multiple says nothing.
        usual = f", {observed / expected:,.1f} times the expected" if expected >= observed / 1_000 else ""
        return f"{_usd(observed)} in the hour from {hour}{usual}"
    if anomaly.kind == "errors":
        return (
            f"{_share(observed)} of {anomaly.samples:,} uses failed in the hour from {hour}, usually {_share(expected)}"
        )
    return f"95 % of responses took up to {_time(observed)} in the hour from {hour}, usually {_time(expected)}"


def figures(anomaly: Anomaly) -> tuple[str, str]:
    """Return what was observed and what was expected, each with its unit."""
    form = _FORMS[anomaly.kind]
    return form(anomaly.observed), form(anomaly.expected)


def utc(time: datetime) -> str:
    """Return an hour in UTC as text."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _usd(amount: float) -> str:
    return f"{amount:,.2f} USD" if amount >= 1 else f"{amount:.4f} USD"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _uses(number: float) -> str:
    return f"{number:,.0f} uses"


def _time(milliseconds: float) -> str:
    return f"{milliseconds / SECOND_MS:.1f} s" if milliseconds >= SECOND_MS else f"{milliseconds:.0f} ms"


_FORMS = {"cost": _usd, "errors": _share, "latency": _time, "silence": _uses}
