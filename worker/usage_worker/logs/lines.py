"""What a log line holds: who wrote it, values without passwords, escaped and cut, a traceback only of a bug."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from usage_worker.errors import UsageError
from usage_worker.printable import LINE_LENGTH, printable
from usage_worker.tracing import span_ids

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

    from usage_worker.masking import Mask
    from usage_worker.settings import Settings

# Longest traceback, in lines; of a longer one, the first half and the last half.
TRACEBACK_LINES = 200
# What the clients of the servers raise in an outage, by package and class: logs stand below the packages that may
# import them.
_OUTAGES = {
    ("redis", "ConnectionError"),
    ("redis", "TimeoutError"),
    ("redis", "NoPermissionError"),
    ("redis", "OutOfMemoryError"),
    ("redis", "ReadOnlyError"),
    ("redis", "MasterDownError"),
    ("kombu", "OperationalError"),
    ("psycopg", "OperationalError"),
    ("psycopg_pool", "PoolTimeout"),
}
# Refusals of Redis that have no class of their own.
_REFUSALS = ("MISCONF", "NOREPLICAS", "BUSY ", "LOADING")
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}


class LineForm:
    """The processors of a line, for the format and the mask of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._json = settings.log_format == "json"
        self._mask = settings.mask

    def first(self) -> list[Processor]:
        """Return what adds the fields of every line, where it is logged."""
        added: list[Processor] = [
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_span,
        ]
        # The id of a task, which a machine looks for, would make each line of a terminal too long.
        return [structlog.contextvars.merge_contextvars, *added] if self._json else added

    def last(self) -> list[Processor]:
        """Return what turns the fields into the text of the line."""
        return [
            _add_repeats,
            *([_add_sender] if self._json else []),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _without_expected_traceback,
            structlog.processors.ExceptionRenderer(_traceback_text),
            self._show,
            structlog.processors.JSONRenderer() if self._json else _renderer_for_people(),
        ]

    def _show(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        trace = event.pop("exception", None)
        if isinstance(event["event"], str):
            event["event"] = event["event"].strip()  # kombu begins and ends some messages with a newline
        shown: dict[str, Any] = _shown(self._mask, event)
        if trace is not None:
            lines = _traceback_lines(self._mask(trace))
            # A line of its own that begins like a log line may come from outside.
            shown["exception"] = "\n".join(lines if self._json else (f"    {line}" for line in lines))
        return shown


def _renderer_for_people() -> Processor:
    colors = bool(sys.stderr and sys.stderr.isatty())
    # Its default for exceptions would show the values of variables.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _add_span(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Add the ids of the span in which the line is logged."""
    return {**event, **span_ids()}


def _add_repeats(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Say how often the filter has left the line out since the last one."""
    if repeated := getattr(event["_record"], "repeated", 0):
        event["repeated"] = repeated
    return event


def _add_sender(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    event.setdefault("origin", event["_record"].name)
    return {**event, "host": socket.gethostname(), "pid": os.getpid()}


def _without_expected_traceback(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Give the reason alone where a server is not available: only the traceback of a bug helps."""
    error = _error_of(event.get("exc_info"))
    if error is not None and _is_expected(error):
        del event["exc_info"]
        reason = f"{type(error).__name__}: {error}"
        if str(error) not in str(event.get("event")):
            event["reason"] = reason
    return event


def _error_of(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exc_info()[1]
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return error if isinstance(error, BaseException) else None


def _is_expected(error: BaseException | None) -> bool:
    """Whether an error says that a server is not available or refuses, rather than that there is a bug."""
    if isinstance(error, UsageError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return True
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if ("celery", "SchedulingError") in kinds and error is not None:
        return _is_expected(error.__cause__ or error.__context__)  # beat wraps whatever keeps it from sending
    return bool(kinds & _OUTAGES) or (("redis", "ResponseError") in kinds and str(error).startswith(_REFUSALS))


def _traceback_text(exc_info: ExcInfo) -> str:
    """Format the traceback as Python prints it, without the values of variables."""
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def _shown(mask: Mask, value: Any) -> Any:
    """Return the value without passwords, escaped and cut, in types that JSON has."""
    if isinstance(value, str):
        return printable(mask(value), LINE_LENGTH)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {_shown(mask, str(key)): _shown(mask, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(mask, item) for item in value]
    return _shown(mask, repr(value))


def _traceback_lines(text: str) -> list[str]:
    lines = text.split("\n")
    if len(lines) > TRACEBACK_LINES:
        half = TRACEBACK_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} lines ...", *lines[-half:]]
    return [printable(line, LINE_LENGTH) for line in lines]
