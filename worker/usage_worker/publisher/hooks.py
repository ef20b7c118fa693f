"""The functions of the application that a publisher calls: `before_send` and `on_error`."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from usage_worker.errors import EventRefusedError
from usage_worker.publisher.rate_limited_log import RateLimitedLog

Kind = Literal["refused", "dropped"]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    BeforeSend = Callable[[dict[str, Any]], dict[str, Any] | None]
    OnError = Callable[["EventLoss"], object]
    Fields = Callable[[], dict[str, Any]]
    Report = Callable[[Kind, str, int, Fields | None], None]


@dataclass(frozen=True, slots=True)
class EventLoss:
    """Events that the publisher gives up; the last pack of an outage may have arrived nevertheless."""

    kind: Kind
    """`refused`: a field is wrong. `dropped`: the buffer is full, or the publisher is closed."""
    reason: str
    count: int
    """Number of events."""
    event: dict[str, Any] | None = None
    """The fields: of a refused event as the application gave them; None for those dropped at the end."""


class Hooks:
    """Calls the application's functions; what they raise goes no further.

    Only its type is named: its text, such as that of a KeyError, may be the id of a user.

    A function that publishes events itself is not called again for these, on the same thread, or it would never end.
    """

    def __init__(self, before_send: BeforeSend | None, on_error: OnError | None) -> None:
        self.before_send, self._on_error = before_send, on_error
        self._running = threading.local()
        self._log_limited = RateLimitedLog()

    def filtered(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Return what `before_send` makes of an event: `fields` itself where it changes nothing, None to drop it.

        Raises:
            EventRefusedError: it raised an exception. What it would have removed must not leave the process.
        """
        if self.before_send is None or self._runs("before_send"):
            return fields
        try:
            with self._run("before_send"):
                answer = self.before_send(fields.copy())
                return fields if answer == fields else answer
        except Exception as error:
            raise EventRefusedError(f"before_send raised {type(error).__name__}") from error

    def report(self, kind: Kind, reason: str, count: int, fields: Fields | None) -> None:
        """Tell `on_error` about `count` events that are lost; `fields` returns those of a single one."""
        if self._on_error is None or self._runs("on_error"):
            return
        try:
            with self._run("on_error"):
                self._on_error(EventLoss(kind, reason, count, fields() if fields else None))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the request
            self._log_limited(logging.ERROR, "on_error raised %s", type(error).__name__)

    def _runs(self, name: str) -> bool:
        return getattr(self._running, name, False)

    @contextmanager
    def _run(self, name: str) -> Iterator[None]:
        setattr(self._running, name, True)
        try:
            yield
        finally:
            setattr(self._running, name, False)
