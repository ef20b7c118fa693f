"""What to do about an error of a server; without Celery, so that a process that only serves pages may load it."""

from __future__ import annotations

from usage_worker.errors import (
    BrokerUnavailableError,
    ForeignKeyError,
    SchemaError,
    StatementCancelledError,
    StoreUnavailableError,
    StreamRefusedError,
    StreamUnavailableError,
    UnusableBrokerError,
    UnusableServerError,
    UsageError,
)

GRANT_USER = 'grant what docs/operations.md lists for "Users" to the user of REDIS_URL'
# The first match counts.
_REMEDIES: tuple[tuple[type[UsageError], str], ...] = (
    (UnusableServerError, "name another server in REDIS_URL"),
    (ForeignKeyError, "find the program that writes keys `usage:…`, then rename or delete the key"),
    (StreamRefusedError, GRANT_USER),
    (StreamUnavailableError, "see that the server of REDIS_URL runs and that this machine reaches it"),
    (UnusableBrokerError, "name another server in USAGE_BROKER_URL"),
    (BrokerUnavailableError, "see that the server of USAGE_BROKER_URL runs and that this machine reaches it"),
    (StatementCancelledError, "raise the limit of time that the reason names for the role or database of DATABASE_URL"),
    (StoreUnavailableError, "see that the server of DATABASE_URL runs and that this machine reaches it"),
    (SchemaError, "run `usage-worker migrate up`"),
)


def remedy_of(error: Exception) -> str:
    """Return what to do about an error of a server."""
    return next((text for kind, text in _REMEDIES if isinstance(error, kind)), "correct what the reason names")
