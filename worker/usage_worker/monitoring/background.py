"""The status, collected again and again by a thread, so that whoever shows it asks nobody."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple, Self

from usage_worker.logs import get_logger
from usage_worker.monitoring.status import collect_status

if TYPE_CHECKING:
    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.settings import Settings

log = get_logger("monitoring")

# A status takes 0.1 s; with a server that hangs, its time limits. A process that ends does not wait for that.
_STOP_SECONDS = 1.0


class _Collected(NamedTuple):
    status: SystemStatus
    at: datetime


class BackgroundStatus(AbstractContextManager["BackgroundStatus"]):
    """The last status, collected by a thread of this process within the context.

    Args:
        settings: the servers to ask, and the limits of the checks.
        seconds: the pause between the end of a collection and the begin of the next.
    """

    def __init__(self, settings: Settings, seconds: float = 10.0) -> None:
        self._settings = settings
        self._seconds = seconds
        self._last: _Collected | None = None
        self._has_any, self._stopped = Event(), Event()
        # A daemon: a server that hangs must not keep the process.
        self._thread = Thread(target=self._run, name="background-status", daemon=True)

    @property
    def current(self) -> SystemStatus | None:
        """The last status, at once; None before the first one."""
        return self._last and self._last.status

    @property
    def collected_at(self) -> datetime | None:
        """When the collection of `current` began."""
        return self._last and self._last.at

    def wait(self, seconds: float) -> SystemStatus | None:
        """Wait up to `seconds` for the first status; return `current`."""
        self._has_any.wait(seconds)
        return self.current

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = datetime.now(UTC)
            try:
                self._last = _Collected(collect_status(self._settings), began)
                self._has_any.set()
            except Exception:
                # Out of memory or file descriptors, say: the age of the last status tells, and the next one may succeed.
                log.exception("the status could not be collected")
            self._stopped.wait(self._seconds)
