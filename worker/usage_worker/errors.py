"""The errors that usage-worker raises for its users and callers.

The docstring of a class, without its period, begins its message, so that the hierarchy reads as documentation. A
command prints such an error as one line and exits with 1. Other exceptions are raised only where Python, pydantic,
Celery or the caller within this package expects them, and are handled there; what reaches a user is a bug and keeps its
traceback.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.printable import REASON_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Iterator


class UsageError(Exception):
    """usage-worker failed."""

    def __init__(self, detail: str = "", remedy: str = "") -> None:
        self.detail, self.remedy = f"{detail}; {remedy}" if remedy else detail, remedy
        headline = (self.__doc__ or "").strip().removesuffix(".")
        super().__init__(f"{headline}: {self.detail}" if self.detail else headline)


class SettingsError(UsageError):
    """a setting is wrong."""


class ArgumentError(SettingsError):
    """an argument is wrong."""


class ConfirmationError(UsageError):
    """confirmation needs a terminal."""


class RoleError(SettingsError):
    """the role lacks a right."""


class NamespaceError(SettingsError):
    """the id namespace does not match."""


class ForgetKeyError(SettingsError):
    """the erasure key is missing or wrong."""


class ExtraMissingError(UsageError, ImportError):
    """a package is missing."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package}; run pip install 'usage-worker[{extra}]'")


class EventRefusedError(UsageError):
    """event refused."""

    def __init__(self, detail: str) -> None:
        # The detail quotes names of fields, and goes into the logs of applications.
        super().__init__(printable(detail, REASON_LENGTH))


class StreamUnavailableError(UsageError):
    """Redis is not available."""

    # Whether what was sent may have arrived nevertheless.
    is_uncertain = False


class StreamRefusedError(StreamUnavailableError):
    """Redis refused a command."""


class KeyTakenError(StreamRefusedError):
    """a key in Redis holds what another program has written."""


class UnusableServerError(StreamUnavailableError):
    """Redis cannot be used."""


class BrokerUnavailableError(UsageError):
    """the broker is not available."""


class UnusableBrokerError(BrokerUnavailableError):
    """the broker cannot be used."""


class StoreUnavailableError(UsageError):
    """PostgreSQL is not available."""


class StatementCancelledError(StoreUnavailableError):
    """PostgreSQL cancelled a statement."""


class ClockError(UsageError):
    """the clocks differ."""


class ConcurrencyError(UsageError):
    """the transaction conflicted with another one and can be retried."""


class RecoveryConflictError(ConcurrencyError):
    """the replica cancelled a query that conflicted with replication."""


class LockHeldError(ConcurrencyError):
    """another session holds a lock that a statement needs."""


class DuplicateError(ConcurrencyError):
    """a unique key already contains one of the values, perhaps from another batch."""


class StaleSessionError(ConcurrencyError):
    """the session does not see what another has committed; its connection is closed."""


class ReferenceMissingError(ConcurrencyError):
    """a referenced row does not exist."""


class BusyError(UsageError):
    """another process is doing this already."""


class ParameterError(Exception):
    """A parameter of a request or an option of a command is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class DataRefusedError(UsageError):
    """PostgreSQL refused a value."""


class PartitionMissingError(DataRefusedError):
    # The session sees no partition of the ledger for an event. To people, a value like any other that is refused.
    """PostgreSQL refused a value."""


class OutOfRangeError(DataRefusedError):
    """a number exceeds the type of its column."""


class SchemaError(UsageError):
    """the database schema does not fit."""


class ObstacleError(UsageError):
    """the state of the database prevents this."""


class MigrationError(UsageError):
    """the migration cannot go on."""


class EmbeddedServerError(UsageError):
    """an embedded server cannot start."""


class EmbedderError(UsageError):
    """texts cannot be embedded."""


class EmbedderUnavailableError(EmbedderError):
    """the embedder is not available."""


class TextRefusedError(EmbedderError):
    """a text cannot be embedded."""


class OutputError(UsageError):
    """the output cannot be written."""


class ProcessError(UsageError):
    """a process of the stack failed."""


def named(error: Exception) -> str:
    """Return the text of an error, after its type unless it is one of ours."""
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"


def first_line(error: Exception) -> str:
    """Return the first line of `named`: the others may quote rows."""
    return named(error).partition("\n")[0]


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Import, in the block, what needs an extra; the publisher alone installs without any.

    Raises:
        ExtraMissingError: the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("usage_worker"):
            raise
        raise ExtraMissingError(str(error.name), extra) from None
