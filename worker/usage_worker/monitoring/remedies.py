"""What to do about an error of a server; without Celery, so that a process that only serves pages may load it."""

from __future__ import annotations

from usage_worker.errors import (
    BrokerUnavailableError,
    SchemaError,
    StatementCancelledError,
    StoreUnavailableError,
    StreamUnavailableError,
    UnusableBrokerError,
    UnusableServerError,
    UsageError,
    first_line,
)
from usage_worker.postgres import MIGRATE_UP

# For errors that do not say it themselves. The first match counts.
_REMEDIES: tuple[tuple[type[UsageError], str], ...] = (
    (UnusableServerError, "name another server in REDIS_URL"),
    (StreamUnavailableError, "is REDIS_URL right and the server up?"),
    (UnusableBrokerError, "name another server in USAGE_BROKER_URL"),
    (BrokerUnavailableError, "is USAGE_BROKER_URL right and the server up?"),
    (StatementCancelledError, "raise the limit of time that the reason names for the role or database of DATABASE_URL"),
    (StoreUnavailableError, "is DATABASE_URL right and the server up?"),
    (SchemaError, MIGRATE_UP),
)

_OTHERWISE = "correct what the reason names"


def explained(error: Exception) -> tuple[str, str]:
    """Return what failed, without what to do about it, and that."""
    if isinstance(error, UsageError) and error.remedy:
        return first_line(error).removesuffix(f"; {error.remedy}"), error.remedy
    return first_line(error), next((text for kind, text in _REMEDIES if isinstance(error, kind)), _OTHERWISE)
