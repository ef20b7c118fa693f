"""Erased users: whether PostgreSQL and Redis know the same ones, and whether this process has the key of the hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.events.tombstones import ForgetKey
from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS, Section
from usage_worker.queue.forgotten import FORGOTTEN_KEY, ForgottenSet
from usage_worker.store.forgotten import tombstones

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.events.tombstones import Tombstone
    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

FORGOTTEN_CHECK = "forgotten"
_AGAIN = "run `usage-worker forget --again`"


def _forgotten(inspection: Inspection) -> Iterator[Check]:
    if not inspection.figures.has_schema("5.1.0"):
        return  # it has no table of them, and the check of the schema says so
    in_redis = ForgottenSet(inspection.stream.connection).all()
    with inspection.store.connection() as connection:
        in_database = tombstones(connection)
    if missing := len(in_redis - in_database):
        reason = f"Redis knows {missing:,} erased users that the database does not, as after the restore of a backup"
        yield fail(FORGOTTEN_CHECK, reason, f"{_AGAIN}, which erases them again")
    if missing := len(in_database - in_redis):
        reason = f"{FORGOTTEN_KEY} in Redis lacks {missing:,} erased users, whom a restored backup would bring back"
        yield fail(FORGOTTEN_CHECK, reason, f"{_AGAIN}, which writes them there")
    yield from _key(in_redis | in_database, inspection.settings.forget_key)


def _key(known: set[Tombstone], key: str) -> Iterator[Check]:
    own = ForgetKey(key).id if key else None
    if others := sum(it.key_id != own for it in known):
        what = "another USAGE_FORGET_KEY than this process has" if key else "a USAGE_FORGET_KEY, which is not set here"
        reason = f"{others:,} users were erased with {what}; a worker like that counts no new users"
        yield fail(FORGOTTEN_CHECK, reason, "set the same USAGE_FORGET_KEY for all processes and restart them")


FORGOTTEN = Section((FORGOTTEN_CHECK,), _forgotten, needs=(REDIS, POSTGRESQL))
