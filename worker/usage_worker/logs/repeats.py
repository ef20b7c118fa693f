"""In an outage the same warning comes many times per second: one line every ten seconds says as much."""

from __future__ import annotations

import logging
import re
import time

from typing_extensions import override

from usage_worker.printable import LINE_LENGTH

REPEAT_SECONDS = 10.0
# Different warnings that are remembered; more than that are not repeats.
REMEMBERED = 1_000
# Counts of attempts, seconds and ids differ from repeat to repeat.
_FIGURES = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\d+")


class RepeatFilter(logging.Filter):
    """Leaves out a warning that was logged less than ten seconds ago; the next line says how many were left out.

    Lines of our own that state figures instead of a reason are all kept.
    """

    def __init__(self) -> None:
        super().__init__()
        # Time of the last line, and the number of those that were left out since.
        self._seen: dict[str, tuple[float, int]] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        key = _key(record)
        if key is None:
            return True
        now = time.monotonic()
        logged, left_out = self._seen.get(key, (float("-inf"), 0))
        if now - logged < REPEAT_SECONDS:
            self._seen[key] = logged, left_out + 1
            return False
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen[key] = now, 0
        record.repeated = left_out
        return True


def _key(record: logging.LogRecord) -> str | None:
    """Return what repeats of a line have in common, None where every line counts."""
    if record.levelno < logging.WARNING:
        return None
    shard = ""
    if isinstance(record.msg, dict):
        if "reason" not in record.msg:
            return None
        text, reason, shard = record.msg["event"], record.msg["reason"], record.msg.get("shard", "")
    else:
        text, reason = record.getMessage(), repr(record.exc_info[1]) if record.exc_info else ""
    text = _FIGURES.sub("#", f"{text[:LINE_LENGTH]} {reason[:LINE_LENGTH]}")
    return f"{record.name} {record.levelno} {shard} {text}"
