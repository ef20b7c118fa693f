"""The set-up of the logs of one process, whose every line on standard error is one of them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import structlog

from usage_worker.errors import SettingsError
from usage_worker.logs.lines import LineForm
from usage_worker.logs.repeats import RepeatFilter
from usage_worker.logs.streams import capture_streams, original
from usage_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger


def configure_logs(settings: Settings, *, service: bool = False) -> None:
    """Send every log, ours and the libraries', to standard error in the format that the settings name.

    As JSON, everything else that is printed there becomes a line, too, and so do warnings and uncaught exceptions.

    Args:
        settings: they name level and format, and what is masked.
        service: whether the process serves for as long as it can: it repeats a warning every ten seconds at most, and
            what it prints to standard output are log lines.
    """
    form = LineForm(settings)
    structlog.configure(
        processors=[*form.first(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(original(sys.stderr))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=form.first(), processors=form.last()))
    if service:
        handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # It warns at each attempt to connect, and of a rollback that fails after an error; the error itself says why.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    warnings.showwarning = _log_warning
    _log_uncaught_exceptions()
    if settings.log_format == "json":
        capture_streams(handler, stdout=service)


def configure_from_environment() -> None:
    """Set up the logs even where a setting is wrong: the error is a line in the format that is asked for."""
    try:
        settings = load_settings()
    except SettingsError:
        as_json = os.environ.get("USAGE_LOG_FORMAT") == "json"
        settings = Settings.model_construct(log_format="json" if as_json else "console")
    configure_logs(settings)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that adds `name` to each line as its origin."""
    logger: FilteringBoundLogger = structlog.get_logger(name, origin=name)
    return logger


def bind_to_lines(**fields: object) -> None:
    """Add fields to each line that this thread, or what it runs in its context, logs as JSON from now on."""
    structlog.contextvars.bind_contextvars(**fields)


def unbind_from_lines() -> None:
    """Remove what `bind_to_lines` has added."""
    structlog.contextvars.clear_contextvars()


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Log a warning of Python for information: it advises whoever writes the program, and nothing has failed."""
    text = " ".join(str(message).split())
    get_logger("warnings").info(text, category=category.__name__, at=f"{filename}:{lineno}")


def _log_uncaught_exceptions() -> None:
    """Log what ends the process or a thread, or what a finalizer raises, like everything else: masked, as one line."""
    log = get_logger("uncaught")

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.critical("the process ends with an exception", exc_info=(kind, error, trace))

    def of_thread(hook: threading.ExceptHookArgs) -> None:
        if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
            name = hook.thread.name if hook.thread else ""
            info = (hook.exc_type, hook.exc_value, hook.exc_traceback)
            log.critical("a thread ends with an exception", thread=name, exc_info=info)

    def of_finalizer(hook: sys.UnraisableHookArgs) -> None:
        if hook.exc_value is not None and not issubclass(hook.exc_type, KeyboardInterrupt):
            info = (hook.exc_type, hook.exc_value, hook.exc_traceback)
            log.error(hook.err_msg or "an exception is ignored", object=repr(hook.object), exc_info=info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_process, of_thread, of_finalizer
