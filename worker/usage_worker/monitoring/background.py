"""The status, collected again and again by a thread, so that whoever shows it asks nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from usage_worker.logs import get_logger
from usage_worker.monitoring.status import collect_status

if TYPE_CHECKING:
    from usage_worker.monitoring.inspection import Figures
    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.settings import Settings

T = TypeVar("T")

log = get_logger("monitoring")

# A status takes 0.1 s; with a server that hangs, its time limits. A process that ends does not wait for that.
_STOP_SECONDS = 1.0
# The figures that are counters and times, beside those of the shards.
_KEPT = ("beat_at", "totals", "last_runs")


class Collected(NamedTuple):
    """A status, and when its collection began.

    `known` are its figures, of which counters and times are as they were last known where they are unknown now: a
    counter that is missing during an outage is a gap in every rate.
    """

    status: SystemStatus
    at: datetime
    known: Figures


def collected(settings: Settings, before: Collected | None = None) -> Collected:
    """Collect the status; `before` is the last one."""
    began = datetime.now(UTC)
    status = collect_status(settings)
    return Collected(status, began, _completed(status.figures, before.known) if before else status.figures)


def _completed(figures: Figures, before: Figures) -> Figures:
    """Return the figures with the counters and times of `before` where they are unknown."""
    shards = range(figures.shards or before.shards or 0)
    return replace(
        figures,
        shards=figures.shards or before.shards,
        counters=_of_shards(shards, before.counters, figures.counters),
        vanished=_of_shards(shards, before.vanished, figures.vanished),
        **{name: getattr(before, name) for name in _KEPT if getattr(figures, name) is None},
    )


def _of_shards(shards: range, *known: dict[int, T] | None) -> dict[int, T]:
    """Return the last known value of each shard; those of a number that was reduced are over."""
    return {shard: value for values in known for shard, value in (values or {}).items() if shard in shards}


class BackgroundStatus:
    """The last status, collected by a thread of this process from `start` to `close`.

    Args:
        settings: the servers to ask, and the limits of the checks.
        seconds: the pause between the end of a collection and the begin of the next.
    """

    def __init__(self, settings: Settings, seconds: float = 10.0) -> None:
        self._settings = settings
        self._seconds = seconds
        self._last: Collected | None = None
        self._has_any, self._stopped = Event(), Event()
        # A daemon: a server that hangs must not keep the process.
        self._thread = Thread(target=self._run, name="background-status", daemon=True)

    def start(self) -> Self:
        """Begin to collect."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop collecting."""
        self._stopped.set()
        self._thread.join(_STOP_SECONDS)

    def wait(self, seconds: float) -> Collected | None:
        """Wait up to `seconds` for the first status; return the last one, None where there is none yet."""
        self._has_any.wait(seconds)
        return self._last

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._last = collected(self._settings, self._last)
                self._has_any.set()
            except Exception:
                # Out of memory, say: the age of the last status tells, and the next one may succeed.
                log.exception("the status could not be collected")
            self._stopped.wait(self._seconds)
