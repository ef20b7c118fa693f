"""The exits of processes that nobody has killed, and which of them a fault explains."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usage_worker.errors import (
    BrokerUnavailableError,
    BusyError,
    ConcurrencyError,
    StoreUnavailableError,
    StreamUnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.local.processes import ChildProcess

# They exit with 1 also where they have found what a fault does.
FINDERS = ("status", "doctor")


def unexplained(name: str, process: ChildProcess, *, is_worker: bool = False) -> str:
    """Return what is wrong about the exit of a process that nobody has harmed, or an empty text."""
    tail, code = process.log_tail(), process.exit_code
    if code == 0 and not is_worker:
        return ""
    is_explained = code == 1 and "Traceback" not in tail and (name.startswith(FINDERS) or _names_outage(tail))
    if is_worker:
        # Celery ends a worker that loses the broker with a message in hand, or its children at the start.
        is_explained = code in (0, 1) and bool(re.search(r"redis\.exceptions|kombu\.exceptions|WorkerLost", tail))
    return "" if is_explained else f"{name} ended with {code}: {tail[-600:]}"


def _names_outage(text: str) -> bool:
    outages = (StoreUnavailableError, StreamUnavailableError, BrokerUnavailableError, ConcurrencyError, BusyError)
    return any(headline in text for outage in outages for headline in _headlines(outage))


def _headlines(error: type[UsageError]) -> Iterator[str]:
    yield (error.__doc__ or "").strip().removesuffix(".")
    for kind in error.__subclasses__():
        yield from _headlines(kind)
