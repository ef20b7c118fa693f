"""What keeps VACUUM from removing dead rows in time: its settings, and whoever may still need these rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail, ok, unknown, warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store.queries import query
from usage_worker.wording import short_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

# Seconds. A batch of a backlog takes eight, on a slow machine twelve.
OLD_SECONDS = 60.0
# Cost that autovacuum may cause in a millisecond: docs/operations.md asks for a limit of 2000 with the default delay of
# 2 ms. With PostgreSQL's default of 200, an ANALYZE beside a purge held its snapshot for 20 to 50 s instead of 7.
LEAST_PACE = 500.0


def _autovacuum(inspection: Inspection) -> Iterator[Check]:
    store = inspection.store
    (found,) = store.rows(query("autovacuum"))
    limit, delay = found["cost_limit"], found["delay"]
    settings = f"cost limit {limit}, delay {delay:g} ms, every {found['naptime']} s, {found['workers']} workers"
    if not found["enabled"]:
        yield fail("autovacuum", "it is off: dead rows are never removed", "set autovacuum and track_counts to on")
    elif delay and limit / delay < LEAST_PACE:
        reason = f"{settings}: it is slowed down, and its ANALYZE holds a snapshot for long"
        remedy = "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 2000, then SELECT pg_reload_conf()"
        yield warn("autovacuum", reason, remedy)
    else:
        yield ok("autovacuum", settings)
    # Last, since somebody may hold a table, whose size then cannot be read.
    for table in store.rows(query("our_tables")):
        if table["unattended"]:
            reset = f"ALTER TABLE public.{table['name']} RESET (autovacuum_enabled)"
            yield fail("autovacuum", f"it is switched off for {table['name']}", reset)


def _old_snapshots(inspection: Inspection) -> Iterator[Check]:
    store = inspection.store
    old = store.rows(query("old_snapshots"), seconds=OLD_SECONDS)
    for it in old:
        who = f"pid {it['pid']}, role {printable(it['role'] or 'unknown')}, {printable(it['application'] or '-')}"
        reason = f"{who}: a transaction of {it['seconds']:.0f} s ({it['state']}) keeps dead rows from being removed"
        yield warn("old_snapshots", reason, f"end it, or SELECT pg_terminate_backend({it['pid']})")
    (role,) = store.rows(query("sees_sessions"))
    if not role["sees_all"]:
        reason = "this role sees the transactions of its own sessions only"
        yield unknown("old_snapshots", reason, "GRANT pg_read_all_stats to the role, or run it as an administrator")
    elif not old:
        yield ok("old_snapshots", f"no transaction is older than {OLD_SECONDS:.0f} s")


def _slots(inspection: Inspection) -> Iterator[Check]:
    for it in inspection.store.rows(query("replication_slots")):
        kept = f", and it keeps {short_bytes(it['bytes'])} of WAL" if it["bytes"] is not None else ""
        reason = f"nobody reads the replication slot {printable(it['name'])} ({it['status']}){kept}"
        remedy = f"start its replica, or SELECT pg_drop_replication_slot('{printable(it['name'])}')"
        yield warn("replication_slots", reason, remedy)


def _prepared(inspection: Inspection) -> Iterator[Check]:
    for it in inspection.store.rows(query("prepared_transactions"), seconds=OLD_SECONDS):
        gid = printable(repr(it["gid"]), REASON_LENGTH)
        reason = f"the transaction {gid} of {printable(it['role'])} was prepared {it['seconds']:.0f} s ago"
        yield warn("prepared_transactions", reason, f"as its owner, COMMIT PREPARED or ROLLBACK PREPARED {gid}")


AUTOVACUUM = Section(("autovacuum",), _autovacuum, needs=(POSTGRESQL,), optional=True)
OLD_SNAPSHOTS = Section(("old_snapshots",), _old_snapshots, needs=(POSTGRESQL,), optional=True)
SLOTS = Section(("replication_slots",), _slots, needs=(POSTGRESQL,), optional=True)
PREPARED = Section(("prepared_transactions",), _prepared, needs=(POSTGRESQL,), optional=True)
