"""What to do about an error of a server; without Celery, so that a process that only serves pages may load it."""

from __future__ import annotations

from usage_worker.errors import (
    BrokerUnavailableError,
    KeyTakenError,
    SchemaError,
    StatementCancelledError,
    StoreUnavailableError,
    StreamRefusedError,
    StreamUnavailableError,
    UnusableBrokerError,
    UnusableServerError,
    UsageError,
    first_line,
)
from usage_worker.postgres import MIGRATE_UP
from usage_worker.queue.connection import FIND_PROGRAM, GRANT_USER

# The first match counts.
_REMEDIES: tuple[tuple[type[UsageError], str], ...] = (
    (UnusableServerError, "name another server in REDIS_URL"),
    (KeyTakenError, FIND_PROGRAM),
    (StreamRefusedError, GRANT_USER),
    (StreamUnavailableError, "see that the server of REDIS_URL runs and that this machine reaches it"),
    (UnusableBrokerError, "name another server in USAGE_BROKER_URL"),
    (BrokerUnavailableError, "see that the server of USAGE_BROKER_URL runs and that this machine reaches it"),
    (StatementCancelledError, "raise the limit of time that the reason names for the role or database of DATABASE_URL"),
    (StoreUnavailableError, "see that the server of DATABASE_URL runs and that this machine reaches it"),
    (SchemaError, MIGRATE_UP),
)


def explained(error: Exception) -> tuple[str, str]:
    """Return what failed and what to do about an error of a server; where its message says that, too, it is cut off."""
    remedy = next((text for kind, text in _REMEDIES if isinstance(error, kind)), "correct what the reason names")
    return first_line(error).removesuffix(f"; {remedy}"), remedy
