"""Structured logs: one line per event, for people on a terminal or as JSON for machines.

No log shows a password: tracebacks come without the values of variables, and everything else passes through the
mask of the settings. What came from outside is escaped and cut.
"""

from usage_worker.logs.setup import (
    bind_to_lines,
    configure_from_environment,
    configure_logs,
    get_logger,
    unbind_from_lines,
)
from usage_worker.logs.streams import pass_on, report_failure

__all__ = [
    "bind_to_lines",
    "configure_from_environment",
    "configure_logs",
    "get_logger",
    "pass_on",
    "report_failure",
    "unbind_from_lines",
]
