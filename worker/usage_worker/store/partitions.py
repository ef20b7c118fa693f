"""Create and drop partitions without delaying readers and writers, and delete old stream entries and keys.

Every step holds the lock of its task, is short, and gives up after waiting `LOCK_TIMEOUT` for another lock; a detach
waits longer (ConcurrencyError: try it again).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

import psycopg
from psycopg import sql

from usage_worker.errors import ObstacleError
from usage_worker.store.connection import dict_rows
from usage_worker.store.queries import query
from usage_worker.store.task_runs import limit_only_lock_waits, sole_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date, datetime

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

LOCK_TIMEOUT = "200ms"
# DETACH … CONCURRENTLY waits for every transaction that has used the table, and holds no lock of a table meanwhile.
# Longer than a batch of a backlog.
DETACH_TIMEOUT = "20s"
# FINALIZE completes a DETACH that has given up. It waits for all transactions with a snapshot, and holds the partition
# meanwhile: long, since shards with backlogs leave hardly a moment without one, but shorter than deadlock_timeout, so
# that PostgreSQL ends no client for it.
FINISH_TIMEOUT = "900ms"
ROWS_AT_ONCE = 5_000
MARK = "dropped by usage-worker"

PartitionState = Literal["attached", "pending", "detached", "leaving"]


class DeletedRows(NamedTuple):
    """The number of rows deleted, and the time of the last of them."""

    rows: int
    reached: datetime | None


def partition_states(connection: Connection, table: str) -> dict[str, PartitionState]:
    """Return the state of a table's partitions by name; an administrator is detaching those that are `leaving`."""
    return dict(connection.execute(query("partitions"), {"table": table, "mark": MARK}).fetchall())


def partitions(store: Store, table: str) -> dict[str, PartitionState]:
    """Return the same in a transaction of its own."""
    with store.connection() as connection:
        return partition_states(connection, table)


def make_partition(store: Store, task: str, table: str, partition: str, *, ensure: str, day: date) -> bool:
    """Create the partition that holds a day, by the query `ensure`; return False when it exists.

    Raises:
        ObstacleError: another table has its name.
    """
    with sole_transaction(store, task) as connection:
        if partition_states(connection, table).get(partition) == "attached":
            return False
        limit_only_lock_waits(connection, LOCK_TIMEOUT, in_transaction=True)
        connection.execute(query(ensure), {"day": day})
        if partition_states(connection, table).get(partition) != "attached":
            raise ObstacleError(f"{partition} is a table, not a partition of {table}")
        return True


def drop_partition(
    store: Store,
    task: str,
    table: str,
    partition: str,
    *,
    before_drop: Callable[[Connection], None] = lambda _connection: None,
) -> bool:
    """Detach and drop a partition, continuing an interrupted attempt; return False when there is none.

    Between both, when nothing writes to it any more, `before_drop` is called; if it fails, the next attempt begins
    there.

    Raises:
        ObstacleError: something depends on it.
    """
    if store.pooled:
        # Every other statement on the table waits for this transaction, but not for the next one.
        with _session_of_drop(store, task) as session:
            if partition_states(session, table).get(partition) == "attached":
                _alter(session, "mark_partition", table, partition)
                _alter(session, "detach_partition_at_once", table, partition)
    with _session_of_drop(store, task) as session:
        if not _detach(session, table, partition, in_transaction=store.pooled):
            return False
        limit_only_lock_waits(session, LOCK_TIMEOUT, in_transaction=store.pooled)
        before_drop(session)
        _alter(session, "drop_partition", table, partition)
        return True


def _detach(session: Connection, table: str, partition: str, *, in_transaction: bool) -> bool:
    """Detach a partition, or complete an interrupted attempt; return False when there is none of ours to drop."""
    state = partition_states(session, table).get(partition)
    if state in (None, "leaving"):
        return False
    if state == "attached":
        # COMMENT waits as long: an autovacuum of the partition gives way only after deadlock_timeout, a second.
        limit_only_lock_waits(session, DETACH_TIMEOUT, in_transaction=in_transaction)
        _alter(session, "mark_partition", table, partition)
        try:
            _alter(session, "detach_partition", table, partition)
        except psycopg.Error:
            with suppress(psycopg.Error):
                _unmark(session, table)
            raise
    elif state == "pending":
        limit_only_lock_waits(session, FINISH_TIMEOUT, in_transaction=in_transaction)
        _alter(session, "finish_detaching", table, partition)
    return True


def _alter(session: Connection, name: str, table: str, partition: str) -> None:
    names = {"table": sql.Identifier(table), "partition": sql.Identifier(partition), "mark": sql.Literal(MARK)}
    session.execute(sql.SQL(query(name)).format(**names))


def unmark_partitions(store: Store, task: str, table: str) -> None:
    """Remove the marks of failed drops from attached partitions, which then stay if the administrator detaches them.

    Raises:
        LockHeldError: others hold one of them.
    """
    with sole_transaction(store, task) as connection:
        limit_only_lock_waits(connection, LOCK_TIMEOUT, in_transaction=True)
        _unmark(connection, table)


def _unmark(connection: Connection, table: str) -> None:
    for (name,) in connection.execute(query("marked_partitions"), {"table": table, "mark": MARK}).fetchall():
        connection.execute(sql.SQL(query("unmark_partition")).format(partition=sql.Identifier(name)))


@contextmanager
def _session_of_drop(store: Store, task: str) -> Iterator[Connection]:
    """Hold the task's lock, and yield a session of its own: CONCURRENTLY needs one outside a transaction.

    Behind a pooler there is none, and the transaction itself is yielded.
    """
    with sole_transaction(store, task) as connection:
        if store.pooled:
            limit_only_lock_waits(connection, LOCK_TIMEOUT, in_transaction=True)
            yield connection
            return
        connection.execute(query("keep_task_lock"))
        with store.session() as session:
            limit_only_lock_waits(session, LOCK_TIMEOUT, in_transaction=False)
            yield session


def delete_old_entries(store: Store, task: str, before: date, since: datetime | None) -> DeletedRows:
    """Delete a chunk of the stream entries seen from `since` on and before the (UTC) day `before`."""
    return _delete_chunk(store, task, "delete_old_entries", before, since)


def delete_old_keys(store: Store, task: str, before: date, since: datetime | None) -> DeletedRows:
    """Delete a chunk of the keys of events whose first time lies from `since` on and before the (UTC) day `before`."""
    return _delete_chunk(store, task, "delete_old_keys", before, since)


def _delete_chunk(store: Store, task: str, name: str, before: date, since: datetime | None) -> DeletedRows:
    parameters = {"before": before, "since": since or "-infinity", "count": ROWS_AT_ONCE}
    with sole_transaction(store, task) as connection:
        rows = dict_rows(connection, query(name), parameters)
    return DeletedRows(**rows[0]) if rows else DeletedRows(0, None)
