"""Partition management with concurrent readers and writers, and after it is killed or interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli
from tests.integration.database import run
from tests.integration.ledger import INSERT, attached_partitions, create_days, days, partition_tables
from usage_worker.errors import BusyError
from usage_worker.maintenance.hours import HOURS
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS, STEP_ATTEMPTS, manage_partitions
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.partitions import drop_partition
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.maintenance.partitions import PartitionsReport

# No wait is expected; PostgreSQL's own maintenance may hold a lock briefly.
LONGEST_WAIT = "1s"


class Client:
    """A client that executes a statement in a loop and fails when it waits for a lock for too long."""

    def __init__(self, database: str, statement: str, *parameters: object) -> None:
        self._options = {"autocommit": True, "options": f"-c lock_timeout={LONGEST_WAIT}"}
        self._database, self._statement, self._parameters = database, statement, parameters
        self._stopped = threading.Event()
        self.done, self.error = 0, ""
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with psycopg.connect(self._database, **self._options) as connection:  # type: ignore[arg-type]
            while not self._stopped.is_set() and not self.error:
                try:
                    connection.execute(self._statement.encode(), self._parameters)
                except psycopg.Error as error:
                    self.error = str(error)
                self.done += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            eventually(lambda: self.done)
            yield
            before = self.done
            eventually(lambda: self.error or self.done > before)
        finally:
            self._stopped.set()
            self._thread.join()


@pytest.mark.size
def test_writers_and_readers_never_wait(database: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[drop_partition.__module__], "LOCK_TIMEOUT", "5s")
    create_days(database, *range(-102, -90), rows=1_000)
    writer = Client(database, INSERT, datetime.now(UTC))
    reader = Client(database, "SELECT count(*) FROM usage_events WHERE occurred_at > now() - interval '100 days'")
    # A long statement, as analytics run it: a request for an exclusive lock would wait for it and block all others.
    scanner = Client(database, "SELECT pg_sleep(1.5) FROM (SELECT FROM usage_events LIMIT 1) AS one")
    with writer.running(), reader.running(), scanner.running():
        report = manage_partitions(store, Settings(partitions_ahead_days=19))
    assert [writer.error, reader.error, scanner.error] == ["", "", ""]
    assert report.failed == {}
    assert len([made for made in report.created if made.startswith("usage_events")]) == 12
    assert len(report.dropped) == 12


def test_open_transaction_delays_only_drop(database: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[drop_partition.__module__], "DETACH_TIMEOUT", "1s")
    monkeypatch.setattr(sys.modules[manage_partitions.__module__], "STEP_ATTEMPTS", 3)
    create_days(database, -100, -99)
    with psycopg.connect(database) as older:
        older.execute("SELECT count(*) FROM usage_events")
        report = manage_partitions(store, Settings(partitions_ahead_days=9))
        assert report.created == days(8, 9)
        assert list(report.failed) == days(-100)
        with psycopg.connect(database, autocommit=True, options=f"-c lock_timeout={LONGEST_WAIT}") as client:
            client.execute(INSERT.encode(), [datetime.now(UTC)])
            client.execute("SELECT count(*) FROM usage_events")
    assert manage_partitions(store, Settings()).dropped == days(-100, -99)
    assert partition_tables(database) == set(attached_partitions(database))


def managed_beside(
    batch: psycopg.Connection, database: str, store: Store, statement: str, waited: str
) -> PartitionsReport:
    """Manage partitions; end the batch when a statement has waited for it so long, longer than other steps wait."""
    waiting = """
        SELECT 1 FROM pg_stat_activity
         WHERE query ~ %s AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - %s::interval
    """
    with ThreadPoolExecutor() as threads:
        managed = threads.submit(manage_partitions, store, Settings())
        try:
            eventually(lambda: run(database, waiting, statement, waited), 30)
        finally:
            batch.commit()
        return managed.result()


def test_drop_waits_for_a_batch(database: str, store: Store) -> None:
    """Two shards with a backlog leave no moment without a batch."""
    create_days(database, -100)
    with psycopg.connect(database) as batch:
        batch.execute(INSERT.encode(), [datetime.now(UTC)])
        report = managed_beside(batch, database, store, "DETACH .* CONCURRENTLY", "1 second")
    assert (report.dropped, report.failed) == (days(-100), {})


def test_interrupted_detach_is_finished_beside_batches(database: str, store: Store) -> None:
    """It waits for statements that began before it."""
    create_days(database, -100)
    (old,) = days(-100)
    run(database, f"COMMENT ON TABLE {old} IS 'dropped by usage-worker'")
    detach = f"ALTER TABLE usage_events DETACH PARTITION {old} CONCURRENTLY"
    hasty = psycopg.connect(database, autocommit=True, options="-c lock_timeout=200ms")
    with hasty, psycopg.connect(database) as batch:
        batch.cursor("statement").execute("SELECT FROM usage_events")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            hasty.execute(detach.encode())
        report = managed_beside(batch, database, store, "DETACH .* FINALIZE", "500 ms")
    assert (report.dropped, report.failed) == ([old], {})


@pytest.mark.parametrize("step", ["roll_up_marked_hours", "roll_up_day"])
def test_drop_waits_for_another_roll_up(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The roll-up of a day with millions of events takes longer than all attempts at a step."""
    create_days(database, -100)
    module = sys.modules[manage_partitions.__module__]
    roll_up, attempts = getattr(module, step), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        attempts[0] += 1
        if attempts[0] == 1:
            other.enter_context(sole_transaction(others, HOURS))
        return roll_up(*arguments, **named)

    monkeypatch.setattr(module, step, counted)
    with Store(database) as others, ThreadPoolExecutor() as threads, ExitStack() as other:
        managed = threads.submit(manage_partitions, store, Settings())
        try:
            eventually(lambda: attempts[0] > STEP_ATTEMPTS + 5 or managed.done(), 30)
        finally:
            other.close()
        report = managed.result()
    assert (report.dropped, report.failed) == (days(-100), {})


def test_deleting_entry_keys_blocks_no_batch(database: str, store: Store) -> None:
    old = "INSERT INTO usage_entries SELECT gen_random_uuid(), now() - interval '200 days' FROM generate_series(1, %s)"
    run(database, old, 200_000)
    register = "INSERT INTO usage_entries (key) SELECT gen_random_uuid() FROM generate_series(1, 50)"
    ingest = Client(database, register)
    with ingest.running():
        assert manage_partitions(store, Settings()).deleted_entries == 200_000
    assert ingest.error == ""


def test_others_work_while_a_pooled_drop_rolls_up(database: str) -> None:
    create_days(database, -92)
    seen = []

    def read(_: object) -> None:
        with psycopg.connect(database, options=f"-c lock_timeout={LONGEST_WAIT}") as client:
            seen.append(client.execute("SELECT count(*) FROM usage_events").fetchone())

    with Store(database, pooled=True) as pooled:
        assert drop_partition(pooled, MANAGE_PARTITIONS, "usage_events", *days(-92), before_drop=read)
    assert seen == [(0,)]
    assert days(-92)[0] not in partition_tables(database)


def test_limit_of_idle_transactions_does_not_end_a_drop(database: str) -> None:
    """The lock of the task is held by a transaction that is idle meanwhile."""
    create_days(database, -92)
    limit = "ALTER DATABASE %I SET idle_in_transaction_session_timeout = '1s'"
    run(database, f"DO $$ BEGIN EXECUTE format('{limit.replace(chr(39), chr(39) * 2)}', current_database()); END $$")

    def work(session: psycopg.Connection) -> None:
        session.execute("SELECT pg_sleep(2)")

    with Store(database) as store:
        assert drop_partition(store, MANAGE_PARTITIONS, "usage_events", *days(-92), before_drop=work)


def test_next_run_completes_killed_detach(database: str, store: Store, cli: Cli) -> None:
    create_days(database, -100, rows=3)
    (old,) = days(-100)
    with psycopg.connect(database) as reader:
        reader.execute(f"LOCK TABLE {old} IN ACCESS SHARE MODE".encode())
        process = subprocess.Popen(
            [PROGRAM, "run", "partitions"], cwd=cli.folder, env=cli.env, stderr=subprocess.DEVNULL
        )
        eventually(lambda: run(database, "SELECT 1 FROM pg_inherits WHERE inhdetachpending"), 30)
        process.kill()
        process.wait()
    assert old in partition_tables(database)
    eventually(lambda: manage_again(store, old))
    assert old not in partition_tables(database)


def test_next_run_completes_killed_drop(database: str, store: Store, cli: Cli) -> None:
    create_days(database, -100, rows=3)
    (old,) = days(-100)
    process = subprocess.run([sys.executable, "-c", KILLED_BEFORE_DROP], cwd=cli.folder, env=cli.env, check=False)
    assert process.returncode == -signal.SIGKILL
    assert old in partition_tables(database) - set(attached_partitions(database))
    eventually(lambda: manage_again(store, old))
    assert old not in partition_tables(database)


# The product has no hooks for faults, so its function is wrapped from outside.
KILLED_BEFORE_DROP = """
import os, signal
import sys
from usage_worker import cli
import usage_worker.store.partitions
partitions = sys.modules["usage_worker.store.partitions"]
query = partitions.query
def strike(name):
    if name == "drop_partition":
        os.kill(os.getpid(), signal.SIGKILL)
    return query(name)
partitions.query = strike
cli.cli(["run", "partitions"])
"""


def manage_again(store: Store, dropped: str) -> bool:
    """Return whether a run dropped the partition; it is busy until the server notices the killed process."""
    try:
        return manage_partitions(store, Settings()).dropped == [dropped]
    except BusyError:
        return False


def test_interrupted_run_prints_partial_report(database: str, cli: Cli) -> None:
    create_days(database, -100)
    cli.env["USAGE_PARTITIONS_AHEAD_DAYS"] = "9"
    with psycopg.connect(database) as older:
        older.execute("SELECT count(*) FROM usage_events")
        process = subprocess.Popen(
            [PROGRAM, "run", "partitions", "--json"], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE
        )
        eventually(lambda: run(database, "SELECT 1 FROM pg_inherits WHERE inhdetachpending"), 30)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    figures = json.loads(output)
    assert process.returncode == 130
    assert figures["interrupted"]
    assert (figures["created"], figures["dropped"]) == (days(8, 9), [])
    assert json.loads(cli.run("run", "partitions", "--json").stdout)["dropped"] == days(-100)
