"""Structured logs: one line per event, for people on a terminal or as JSON for machines.

No log shows a password: tracebacks come without the values of variables, and everything else passes through the
mask of the settings.
"""

from __future__ import annotations

import logging
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor, WrappedLogger

    from usage_worker.masking import Mask
    from usage_worker.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Send every log, ours and the libraries', to standard error in the format that the settings name."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(_traceback_text),
            partial(_without_passwords, settings.mask),
            _renderer(settings),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # It warns at each attempt to connect; the error after the last one says why.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that adds `name` to each line as its origin."""
    logger: FilteringBoundLogger = structlog.get_logger(name, origin=name)
    return logger


def _renderer(settings: Settings) -> Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer()
    # Its default for exceptions would show the values of variables.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)


def _traceback_text(exc_info: ExcInfo) -> str:
    """Format the traceback as Python prints it."""
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def _without_passwords(mask: Mask, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {key: _masked(mask, value) for key, value in event.items()}


def _masked(mask: Mask, value: Any) -> Any:
    """Return the value without passwords, in types that JSON has."""
    if isinstance(value, str):
        return mask(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {mask(str(key)): _masked(mask, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(mask, item) for item in value]
    return mask(repr(value))
