"""Every error that usage-worker raises on purpose.

The docstring of a class, without its period, begins its message, so that the hierarchy reads as documentation. A
command prints such an error as one line and exits with 1; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from usage_worker.printable import REASON_LENGTH, printable


class UsageError(Exception):
    """usage-worker failed."""

    def __init__(self, detail: str = "") -> None:
        headline = (self.__doc__ or "").strip().removesuffix(".")
        super().__init__(f"{headline}: {detail}" if detail else headline)


class SettingsError(UsageError):
    """a setting is wrong."""


class EventRefusedError(UsageError):
    """event refused."""

    def __init__(self, detail: str) -> None:
        # The detail quotes names of fields, and goes into the logs of applications.
        super().__init__(printable(detail, REASON_LENGTH))


class StreamUnavailableError(UsageError):
    """Redis is not available."""


class StoreUnavailableError(UsageError):
    """PostgreSQL is not available."""


class ConcurrencyError(UsageError):
    """the transaction lost a race and may be tried again."""


class DuplicateError(ConcurrencyError):
    """another batch has counted an event of this one, or opened a conversation of it."""


class ReferenceMissingError(ConcurrencyError):
    """a row that is referred to does not exist, or no longer."""


class BusyError(UsageError):
    """another process is doing this already."""


class DataRefusedError(UsageError):
    """PostgreSQL refused a value."""


class OutOfRangeError(DataRefusedError):
    """a number exceeds the type of its column."""


class SchemaError(UsageError):
    """the database schema does not fit."""


class ObstacleError(UsageError):
    """something in the database is in the way."""


class MigrationError(UsageError):
    """the migration cannot go on."""


class EmbeddedServerError(UsageError):
    """an embedded server cannot start."""


class ProcessError(UsageError):
    """a process of the stack failed."""
