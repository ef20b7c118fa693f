"""Correct an event that the ledger has; every total that it was counted in follows, in the same transaction."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from usage_worker.errors import ArgumentError
from usage_worker.events.columns import CORRECTABLE
from usage_worker.events.event import identity_of
from usage_worker.events.external_ids import parse_uuid
from usage_worker.maintenance.retry import retry
from usage_worker.printable import is_unicode, printable
from usage_worker.store.correct import correct_event, events_of_id, lock_event
from usage_worker.store.task_runs import require_owner

if TYPE_CHECKING:
    from datetime import datetime

    from usage_worker.events.tombstones import ForgetKey
    from usage_worker.maintenance.corrected_event import Edits
    from usage_worker.store.connection import Store
    from usage_worker.store.correct import LedgerRow
    from usage_worker.store.event_conversation import KeptConversation

MAX_REASON: Final = 500
# For another correction; it reads the days on which the pair was used.
WAIT_TIMEOUT_SECONDS = 60.0
# A correction gives way to batches, which may hold the pair again and again.
ATTEMPTS = 20


class Change(NamedTuple):
    """A field before and after the correction."""

    field: str
    old: Any
    new: Any


class Correction(NamedTuple):
    """What a correction changes, or has changed."""

    event: LedgerRow
    changes: list[Change]
    kept_conversation: KeptConversation | None = None
    """Why the event's former conversation is still counted."""


def check_reason(reason: str | None) -> None:
    """Check the reason of a correction.

    Raises:
        ArgumentError: it is empty, too long, or nothing that PostgreSQL can keep.
    """
    if reason is None:
        return
    if not 0 < len(reason) <= MAX_REASON or "\x00" in reason or not is_unicode(reason):
        raise ArgumentError(
            f"--reason: give 1 to {MAX_REASON} characters without U+0000 and without half a surrogate pair"
        )


def find_event(store: Store, event: str, at: datetime | None, retention_days: int) -> LedgerRow:
    """Return the event of an id, or of an application's own idempotency key.

    Raises:
        ArgumentError: there is no id, the ledger does not have it, or has several and `at` does not choose one.
        RoleError: the role does not own the tables.
    """
    if not event:
        raise ArgumentError("EVENT: is empty; give the event_id")
    require_owner(store)
    try:
        found = events_of_id(store, identity_of(parse_uuid(event) or event))
    except UnicodeEncodeError:
        raise ArgumentError(f"event {printable(event)}: is not UTF-8") from None
    wanted = [row for row in found if at in (None, row["occurred_at"])]
    if len(wanted) == 1:
        return wanted[0]
    name, times = printable(event), ", ".join(row["occurred_at"].isoformat() for row in found)
    if found:
        raise ArgumentError(f"event {name}: the ledger has it at {times}; choose one with --at")
    raise ArgumentError(
        f"event {name}: the ledger does not have it: it was never counted, or the ledger no longer has its day"
        f" (USAGE_RETENTION_DAYS={retention_days})"
    )


def preview(event: LedgerRow, edits: Edits) -> Correction:
    """Return what a correction of this event would change.

    Raises:
        ArgumentError: a field cannot be corrected.
        EventRefusedError: a value would be refused at publishing, too.
    """
    edits.check()
    return Correction(event, _changes(event, edits.of(event).row))


def correct(
    store: Store, event: LedgerRow, edits: Edits, reason: str | None = None, key: ForgetKey | None = None
) -> Correction:
    """Correct an event of the ledger, with everything that follows from it; repeated, it changes nothing.

    Args:
        store: the database.
        event: the event, as `find_event` returned it; what others have corrected since then counts.
        edits: the values to set.
        reason: why, for the history; not for personal words.
        key: the key of erasure, where users were erased.

    Raises:
        ArgumentError: a field cannot be corrected, the reason is empty or invalid, the ledger no longer has the event,
            or its user was erased.
        ForgetKeyError: users were erased, and the key is missing or wrong.
        ObstacleError: the totals do not contain the event, and reconcile repairs them; or nobody can tell which do.
        NamespaceError: the new conversation is known under another namespace.
        EventRefusedError: a value would be refused at publishing, too, or a counter of the pair cannot hold it.
        BusyError: other corrections did not let this one have its turn.
        ConcurrencyError: batches or clients hold the pair.
        StoreUnavailableError: PostgreSQL is away; whether the correction is committed shows when it is repeated.
    """
    edits.check()
    check_reason(reason)
    identity = event["event_id"], event["occurred_at"]
    step = partial(correct_event, store, *identity, edits.of, reason, key)
    done = retry(step, WAIT_TIMEOUT_SECONDS, ATTEMPTS)
    return Correction(done.old, _changes(done.old, done.new), done.kept_conversation)


def await_standby(store: Store, event: LedgerRow) -> None:
    """Wait until the synchronous standby, if there is one, has everything that was committed before.

    Raises:
        ConcurrencyError: others hold the event.
        StoreUnavailableError: PostgreSQL is away, or somebody cancelled the wait.
    """
    retry(partial(lock_event, store, event["event_id"], event["occurred_at"]), WAIT_TIMEOUT_SECONDS)


def _changes(old: LedgerRow, new: LedgerRow) -> list[Change]:
    names = (*CORRECTABLE, "cost_source")
    return [Change(name, _plain(old[name]), _plain(new[name])) for name in names if old[name] != new[name]]


def _plain(value: Any) -> Any:
    """Return a decimal without the zeros at its end, and any other value as it is."""
    return value.normalize() if isinstance(value, Decimal) else value
