"""Erase a user: note a keyed hash, then delete everything that names the user, in short transactions.

The hash is noted first, so that nothing is counted of the user from then on. Every step may be repeated: an erasure
that was interrupted is finished by another one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.errors import ObstacleError
from usage_worker.maintenance.analytics import REFRESH
from usage_worker.maintenance.forget_letters import count_letters, erase_from_letters
from usage_worker.maintenance.forget_statistics import renew_statistics
from usage_worker.maintenance.graph import GRAPH
from usage_worker.maintenance.hours import roll_up_hours
from usage_worker.maintenance.pruning import PRUNE
from usage_worker.maintenance.retry import retry
from usage_worker.queue.forgotten import ForgottenSet
from usage_worker.store.analytics import refresh_analytics
from usage_worker.store.external_ids import delete_ownerless_ids
from usage_worker.store.forget import (
    counts_of,
    erase,
    erase_account,
    erase_day,
    erase_members,
    erase_of_application,
    erase_retired,
    erase_user_id,
    ledger_days,
)
from usage_worker.store.forget_places import ACCOUNT, hidden_places, own_places, steps, user_places
from usage_worker.store.forget_statistics import newest_erasure
from usage_worker.store.forgotten import add_tombstones, wait_for_batches
from usage_worker.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.events.tombstones import ForgetKey, Tombstone
    from usage_worker.maintenance.person import Person
    from usage_worker.queue.connection import RedisConnection
    from usage_worker.store.connection import Store
    from usage_worker.store.forget_places import Place

# How long another process may hold what a step needs.
WAIT_SECONDS = 60.0
LETTERS = "usage_dead_letters.payload"


@dataclass(slots=True)
class ForgetReport:
    """What names a user, or what was erased, without any id."""

    users: int = 0
    """Number of users."""
    rows: dict[str, int] = field(default_factory=dict)
    """Number of rows by table and column."""
    notes: list[str] = field(default_factory=list)
    """What is left to do by hand, or was deleted with the rest."""
    tables: set[int] = field(default_factory=set)
    """The tables and partitions that have these rows, by oid; not for machines."""

    def as_dict(self) -> dict[str, Any]:
        return {"users": self.users, "rows": self.rows, "notes": self.notes}

    def add(self, name: str, rows: int) -> None:
        """Add rows of a column."""
        self.rows[name] = self.rows.get(name, 0) + rows

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text and text not in self.notes:
            self.notes.append(text)


def what_names(store: Store, people: Sequence[Person], ids: ExternalIds) -> ForgetReport:
    """Return what an erasure would change. Changes nothing."""
    report = ForgetReport(users=len(people))
    hidden = hidden_places(store)
    for place in user_places(store):
        if place in hidden:
            report.note(f"{place.name}: rows may be hidden from this role; its owner must erase the user there")
            continue
        for person in people:
            counts = counts_of(store, place, person.id)
            report.add(place.name, sum(counts.values()))
            report.tables |= counts.keys()
    for person in people:
        report.add(LETTERS, count_letters(store, person, ids))
    return report


class Erasure:
    """Erases users from one database.

    Every method raises BusyError where another process is at work for a minute, LockHeldError where others hold what it
    needs for so long, and the errors of a lost connection.
    """

    def __init__(self, store: Store, connection: RedisConnection, key: ForgetKey, ids: ExternalIds) -> None:
        self._store = store
        self._set = ForgottenSet(connection)
        self._key = key
        self._ids = ids

    def erase(self, people: Sequence[Person], earlier: Collection[Tombstone] = ()) -> ForgetReport:
        """Erase users. Returns what named them when their last batch had ended.

        Also analyses what an interrupted erasure of these or of `earlier` users left.
        """
        added = [self._key.tombstone(person.id) for person in people]
        since = newest_erasure(self._store, [*added, *earlier])
        # Redis first: where it fails nothing was done, and a database that is restored is older than Redis.
        self._set.add(added)
        add_tombstones(self._store, added)
        wait_for_batches(self._store, WAIT_SECONDS)
        # Counted before, not by the steps: foreign keys and triggers delete rows, and move or add some.
        report = what_names(self._store, people, self._ids)
        kept: list[str] = []
        for person in people:
            kept += self._erase(person, report)
        self._recount()
        for person in people:
            self._erase_in_application(person, report)
        if kept:
            raise ObstacleError("; ".join(dict.fromkeys(kept)))
        for person in people:  # the application's own id last, since it leads to what names it
            self._step(partial(erase_user_id, self._store, person.id))
        report.note(renew_statistics(self._store, [person.id for person in people], report.tables, since))
        return report

    def _erase(self, person: Person, report: ForgetReport) -> list[str]:
        """Erase a user from our tables; return what keeps rows there."""
        store, user = self._store, person.id
        columns = steps(store)
        for place in columns:
            if place.is_share:
                self._step(partial(erase, store, place, user))
        self._note_kept(report, ACCOUNT, user, retry(partial(erase_account, store, user), WAIT_SECONDS))
        for place in columns:
            if not (place.is_share or place.is_of_application):
                self._step(partial(erase, store, place, user))
        for partition in ledger_days(store):
            self._step(partial(erase_day, store, partition, user))
        self._step(partial(erase_retired, store, user))
        self._step(partial(erase_members, store, GRAPH, user))
        if whole := erase_from_letters(store, person, self._ids, WAIT_SECONDS):
            report.note(f"{counted(whole, 'dead letter')} deleted with all events")
        return [why for it in own_places(store) if (why := retry(partial(self._kept_in, it, user), WAIT_SECONDS))]

    def _erase_in_application(self, person: Person, report: ForgetReport) -> None:
        """Erase the rest of the tables that may be the application's; what their owner keeps from us is noted."""
        for place in steps(self._store):
            if place.is_of_application:
                step = partial(erase_of_application, self._store, place, person.id)
                self._note_kept(report, place, person.id, retry(step, WAIT_SECONDS))

    def _kept_in(self, place: Place, user: UUID) -> str:
        """Erase what partitions still have that are not named like ours; return what keeps rows there, if any."""
        if not counts_of(self._store, place, user):
            return ""
        erase(self._store, place, user)
        left = sum(counts_of(self._store, place, user).values())
        what = f"a trigger keeps {counted(left, 'row')} of the user in {place.table_name}"
        return f"{what}; remove it, and repeat this" if left else ""

    def _note_kept(self, report: ForgetReport, place: Place, user: UUID, why: str) -> None:
        """Note why rows stay where some do, unless a note says already that they may be hidden."""
        if place.name in report.rows:
            counts = retry(partial(counts_of, self._store, place, user), WAIT_SECONDS)
            if kept := sum(counts.values()):
                report.note(why)
                report.rows[place.name] = max(report.rows[place.name] - kept, 0)

    def _step(self, step: Callable[[], object]) -> None:
        retry(step, WAIT_SECONDS)

    def _recount(self) -> None:
        """Compute again what has no ids, and was computed of the users, too."""
        self._step(partial(roll_up_hours, self._store))
        self._step(partial(refresh_analytics, self._store, REFRESH, force=True))
        self._step(partial(delete_ownerless_ids, self._store, PRUNE))
