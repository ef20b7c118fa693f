"""The status, collected in the background for as long as somebody looks at it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usage_worker.monitoring.background import BackgroundStatus, Collected
    from usage_worker.settings import Settings

# A status takes 0.1 s, and one of a server that does not answer some seconds.
FIRST_SECONDS = 8.0
IDLE_SECONDS = 180.0


class StatusWatch:
    """The background status of one process: it begins at the first look, and ends when nobody has looked for a while.

    A service that only takes events asks nobody.
    """

    def __init__(self, settings: Settings, idle_seconds: float = IDLE_SECONDS) -> None:
        self._settings, self._idle_seconds = settings, idle_seconds
        self._lock = threading.Lock()
        self._background: BackgroundStatus | None = None
        self._end = threading.Timer(idle_seconds, self.close)

    def begin(self) -> None:
        """Collect from now on."""
        self._watched()

    def look(self) -> Collected | None:
        """Return the last status; only the first one is waited for, and not forever."""
        return self._watched().wait(FIRST_SECONDS)

    def close(self) -> None:
        """Stop collecting."""
        with self._lock:
            self._end.cancel()
            background, self._background = self._background, None
        if background is not None:
            background.close()

    def _watched(self) -> BackgroundStatus:
        # With it comes Celery, which takes a third of a second to load, and which an events-only service does not need.
        from usage_worker.monitoring.background import BackgroundStatus  # noqa: PLC0415

        with self._lock:
            self._end.cancel()
            self._end = threading.Timer(self._idle_seconds, self.close)
            self._end.daemon = True
            self._end.start()
            if self._background is None:
                self._background = BackgroundStatus(self._settings).start()
            return self._background
