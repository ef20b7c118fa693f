"""Partitions: there before their day, gone after their retention, and nobody waits for either."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli
from tests.integration.database import run
from worker.app import app
from worker.errors import BusyError
from worker.maintenance import MANAGE_PARTITIONS, manage_partitions, outlook, perform
from worker.monitoring import look
from worker.resources import Resources
from worker.settings import Settings
from worker.store import Store, sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import Bench

TODAY = datetime.now(UTC).date()
# Nobody should wait at all; PostgreSQL's own housekeeping may be in the way for a moment.
LONGEST_WAIT = "100ms"
ATTACHED = """
    SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'usage_events'::regclass AND NOT i.inhdetachpending ORDER BY 1
"""


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    with Store(database) as store:
        yield store


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


def name(day: date) -> str:
    return f"usage_events_{day:%Y%m%d}"


def days(*ahead: int) -> list[str]:
    return [name(TODAY + timedelta(days=number)) for number in ahead]


def attached(database: str) -> list[str]:
    return [row[0] for row in run(database, ATTACHED)]


def tables(database: str) -> set[str]:
    """All tables that are or were partitions of the ledger."""
    found = "SELECT relname::text FROM pg_class WHERE relname ~ '^usage_events_[0-9]+$' AND relkind = 'r'"
    return {row[0] for row in run(database, found)}


def make_days(database: str, *ahead: int, rows: int = 0) -> None:
    for number in ahead:
        day = TODAY + timedelta(days=number)
        run(database, "SELECT public.usage_events_ensure_day(%s)", day)
        insert = f"{INSERT} FROM generate_series(1, {rows})"
        run(database, insert, datetime(day.year, day.month, day.day, 12, tzinfo=UTC))


INSERT = """
    INSERT INTO usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens,
                              tokens, success)
    SELECT gen_random_uuid(), %s, 'usage', gen_random_uuid(), gen_random_uuid(), 1, 0, 0, 0, true
"""


def event(bench: Bench, user: int, **fields: object) -> dict[str, Any]:
    """A complete event, so that the oracle knows its identity."""
    own = {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "tokens": 1}
    return {"user_id": bench.users[user], "agent_id": bench.agents[0], **own, **fields}


def test_days_are_made_ahead_and_dropped_past_the_retention(database: str, store: Store) -> None:
    make_days(database, -92, -91, -90, -36, rows=3)
    settings = Settings(partitions_ahead_days=9)
    report = manage_partitions(store, settings)
    assert (report.created, report.dropped, report.failed) == (days(8, 9), days(-92, -91), {})
    assert attached(database) == days(-90, -36, *range(10))
    assert tables(database) == set(attached(database))
    assert report.ahead_days["usage_events"] == 9
    assert not report.short
    again = manage_partitions(store, settings)
    assert (again.created, again.dropped) == ([], [])


def test_months_of_the_audit_trail(database: str, store: Store) -> None:
    run(database, "SELECT public.user_agent_history_ensure_month('2020-02-10')")
    report = manage_partitions(store, Settings(partitions_ahead_days=70))
    last = TODAY + timedelta(days=70)
    found = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'user_agent_history'::regclass ORDER BY 1"
    )
    months = [row[0] for row in run(database, found)]
    assert months[0] == f"user_agent_history_{TODAY:%Y%m}"
    assert months[-1] == f"user_agent_history_{last:%Y%m}"
    assert "user_agent_history_202002" in report.dropped
    assert report.ahead_days["user_agent_history"] >= 70


def test_what_is_made_is_closed_to_everybody(database: str, store: Store) -> None:
    run(database, "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role")
    made = manage_partitions(store, Settings(partitions_ahead_days=9)).created
    assert set(days(8, 9)) <= set(made)
    rights = """
        SELECT DISTINCT relrowsecurity, has_table_privilege('anon', oid, 'SELECT, INSERT, UPDATE, DELETE'),
               has_table_privilege('authenticated', oid, 'SELECT, INSERT, UPDATE, DELETE'),
               has_table_privilege('service_role', oid, 'SELECT'),
               has_table_privilege('service_role', oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
          FROM pg_class WHERE relname::text = ANY (%s)
    """
    assert run(database, rights, made) == [(True, False, False, True, False)]


class Client:
    """Somebody who uses the ledger without a pause and gives up when he has to wait too long."""

    def __init__(self, database: str, statement: str, *parameters: object) -> None:
        self._options = {"autocommit": True, "options": f"-c lock_timeout={LONGEST_WAIT}"}
        self._database, self._statement, self._parameters = database, statement, parameters
        self._stopped = threading.Event()
        self.done, self.longest, self.error = 0, 0.0, ""
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with psycopg.connect(self._database, **self._options) as connection:  # type: ignore[arg-type]
            while not self._stopped.is_set() and not self.error:
                started = time.monotonic()
                try:
                    connection.execute(self._statement.encode(), self._parameters)
                except psycopg.Error as error:
                    self.error = str(error)
                self.longest = max(self.longest, time.monotonic() - started)
                self.done += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            eventually(lambda: self.done > 10)
            yield
            before = self.done
            eventually(lambda: self.error or self.done > before + 10)
        finally:
            self._stopped.set()
            self._thread.join()


def test_no_writer_and_no_reader_waits(database: str, store: Store) -> None:
    make_days(database, *range(-130, -90), rows=1_000)
    writer = Client(database, INSERT, datetime.now(UTC))
    reader = Client(database, "SELECT count(*) FROM usage_events WHERE occurred_at > now() - interval '100 days'")
    # A long statement, as analytics would run it: it keeps whoever wants to lock everything out of the queue.
    scanner = Client(database, "SELECT pg_sleep(0.5) FROM (SELECT FROM usage_events LIMIT 1) AS one")
    with writer.at_work(), reader.at_work(), scanner.at_work():
        report = manage_partitions(store, Settings(partitions_ahead_days=40))
    assert [writer.error, reader.error, scanner.error] == ["", "", ""]
    assert report.failed == {}
    assert len([made for made in report.created if made.startswith("usage_events")]) == 33
    assert len(report.dropped) == 40


def test_a_transaction_that_stays_open_delays_a_drop_and_nothing_else(database: str, store: Store) -> None:
    make_days(database, -100, -99)
    with psycopg.connect(database) as older:
        older.execute("SELECT count(*) FROM usage_events")
        report = manage_partitions(store, Settings(partitions_ahead_days=9))
        assert report.created == days(8, 9)
        assert list(report.failed) == days(-100)
        with psycopg.connect(database, autocommit=True, options=f"-c lock_timeout={LONGEST_WAIT}") as client:
            client.execute(INSERT.encode(), [datetime.now(UTC)])
            client.execute("SELECT count(*) FROM usage_events")
    assert manage_partitions(store, Settings()).dropped == days(-100, -99)
    assert tables(database) == set(attached(database))


def test_what_somebody_detached_to_keep_is_kept(database: str, store: Store) -> None:
    make_days(database, -100, rows=3)
    (archived,) = days(-100)
    run(database, f"ALTER TABLE usage_events DETACH PARTITION {archived}")
    assert manage_partitions(store, Settings()).dropped == []
    assert run(database, f"SELECT count(*) FROM {archived}") == [(3,)]


def test_a_kill_while_it_detaches_is_repaired_by_the_next_run(database: str, store: Store, cli: Cli) -> None:
    make_days(database, -100, rows=3)
    (old,) = days(-100)
    with psycopg.connect(database) as reader:
        reader.execute(f"LOCK TABLE {old} IN ACCESS SHARE MODE".encode())
        process = subprocess.Popen([PROGRAM, "partitions"], cwd=cli.folder, env=cli.env, stderr=subprocess.DEVNULL)
        eventually(lambda: run(database, "SELECT 1 FROM pg_inherits WHERE inhdetachpending"), 30)
        process.kill()
        process.wait()
    assert old in tables(database)
    eventually(lambda: manage_again(store, old))
    assert old not in tables(database)


def test_a_kill_before_it_drops_is_repaired_by_the_next_run(database: str, store: Store, cli: Cli) -> None:
    make_days(database, -100, rows=3)
    (old,) = days(-100)
    process = subprocess.run([sys.executable, "-c", KILLED_BEFORE_DROP], cwd=cli.folder, env=cli.env, check=False)
    assert process.returncode == -signal.SIGKILL
    assert old in tables(database) - set(attached(database))
    eventually(lambda: manage_again(store, old))
    assert old not in tables(database)


# The product has no hooks for that: its function is wrapped from outside.
KILLED_BEFORE_DROP = """
import os, signal
import sys
from worker import cli
import worker.store.partitions
partitions = sys.modules["worker.store.partitions"]
query = partitions.query
def strike(name):
    if name == "drop_partition":
        os.kill(os.getpid(), signal.SIGKILL)
    return query(name)
partitions.query = strike
cli.cli(["partitions"])
"""


def manage_again(store: Store, dropped: str) -> bool:
    """Until the server has noticed that the killed process is gone."""
    try:
        return manage_partitions(store, Settings()).dropped == [dropped]
    except BusyError:
        return False


def test_counters_stay_the_sum_of_their_days(bench: Bench, database: str) -> None:
    bench.publish(*(event(bench, number, tokens=5) for number in range(5)))
    bench.flush()
    long_ago = TODAY - timedelta(days=120)
    make_days(database, -120)
    run(
        database,
        "UPDATE usage_events SET occurred_at = %s",
        datetime(long_ago.year, long_ago.month, long_ago.day, tzinfo=UTC),
    )
    run(database, "UPDATE usage_daily SET day = %s", long_ago)
    assert manage_partitions(bench.resources.store, Settings()).dropped == days(-120)
    assert run(database, "SELECT count(*) FROM usage_events") == [(0,)]
    bench.check()
    assert run(database, "SELECT sum(usage_count), sum(total_tokens_used) FROM usage_daily") == [(5, 25)]


def test_missed_runs_lose_no_event_and_are_an_alarm(bench: Bench, database: str) -> None:
    """A week without a run: today has no partition, nor have the days that late events fall on."""
    store, settings = bench.resources.store, bench.resources.settings
    for partition in attached(database):
        run(database, f"DROP TABLE {partition}")
    ledger, _ = outlook(store, settings)
    assert (ledger.ahead_days, ledger.is_short) == (-1, True)
    moments = [datetime.now(UTC) - timedelta(days=number) for number in range(8)]
    bench.publish(*(event(bench, 0, occurred_at=moment) for moment in moments))
    assert bench.flush().applied == 8
    bench.check()
    assert attached(database) == days(*range(-7, 1))
    manage_partitions(store, settings)
    assert not any(seen.is_short for seen in outlook(store, settings))


def test_what_is_in_the_way_is_named_and_is_an_alarm(database: str, cli: Cli) -> None:
    make_days(database, -100)
    (old,) = days(-100)
    (new,) = days(9)
    run(database, f"CREATE VIEW kept AS SELECT * FROM {old}")
    run(database, f"CREATE TABLE {new} ()")
    cli.env["USAGE_PARTITIONS_AHEAD_DAYS"] = "9"
    done = cli.run("partitions", "--json")
    figures = json.loads(done.stdout)
    assert done.returncode == 1
    assert (figures["created"], figures["dropped"], figures["short"]) == (days(8), [], [])
    assert "no partition of usage_events" in figures["failed"][new]
    assert "other objects depend on it" in figures["failed"][old]
    assert "failed" in cli.run("partitions").stdout
    with closing(Resources(Settings(DATABASE_URL=database, REDIS_URL=cli.env["REDIS_URL"]))) as resources:
        assert not look(app.control, resources).partitions_healthy
    run(database, "DROP VIEW kept")
    run(database, f"DROP TABLE {new}")
    assert json.loads(cli.run("partitions", "--json").stdout)["dropped"] == [old]


def test_a_shortage_is_an_alarm_in_status(database: str, cli: Cli) -> None:
    for partition in days(2, 4, 5, 6, 7):
        run(database, f"DROP TABLE {partition}")
    done = cli.run("status", "--json")
    seen = json.loads(done.stdout)
    assert done.returncode == 1
    assert not seen["partitions_healthy"]
    assert seen["partitions"][0] == {"table": "usage_events", "ahead_days": 1, "wanted_days": 7, "is_short": True}
    assert "partitions of usage_events\t1 days ahead of 7: run `usage-worker partitions`" in cli.run("status").stdout
    assert "usage_events: 7 days ahead" in cli.run("partitions").stdout
    assert json.loads(cli.run("status", "--json").stdout)["partitions_healthy"]


def test_stream_entries_are_forgotten_with_the_ledger(bench: Bench, database: str) -> None:
    store, settings = bench.resources.store, bench.resources.settings
    bench.publish(*(event(bench, 0) for _ in range(5)))
    bench.flush()
    young = run(database, "SELECT count(*) FROM usage_entries")[0][0]
    old = (
        "INSERT INTO usage_entries SELECT gen_random_uuid(), now() - %s * interval '1 day' FROM generate_series(1, %s)"
    )
    run(database, old, settings.retention_days - 1, 10)
    run(database, old, settings.retention_days + 1, 12_000)
    run(database, old, settings.retention_days + 2, 3)
    with psycopg.connect(database) as batch:
        held = "SELECT key FROM usage_entries WHERE seen_at < now() - interval '91.5 days' LIMIT 1 FOR KEY SHARE"
        batch.execute(held)
        assert manage_partitions(store, settings).forgotten_entries == 12_002
    assert manage_partitions(store, settings).forgotten_entries == 1
    assert run(database, "SELECT count(*) FROM usage_entries") == [(young + 10,)]
    bench.check()


def test_forgetting_keeps_no_batch_waiting(database: str, store: Store) -> None:
    old = "INSERT INTO usage_entries SELECT gen_random_uuid(), now() - interval '200 days' FROM generate_series(1, %s)"
    run(database, old, 200_000)
    register = "INSERT INTO usage_entries (key) SELECT gen_random_uuid() FROM generate_series(1, 50)"
    ingest = Client(database, register)
    with ingest.at_work():
        assert manage_partitions(store, Settings()).forgotten_entries == 200_000
    assert ingest.error == ""


def test_interrupted_it_prints_what_was_done(database: str, cli: Cli) -> None:
    make_days(database, -100)
    cli.env["USAGE_PARTITIONS_AHEAD_DAYS"] = "9"
    with psycopg.connect(database) as older:
        older.execute("SELECT count(*) FROM usage_events")
        process = subprocess.Popen(
            [PROGRAM, "partitions", "--json"], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE
        )
        eventually(lambda: run(database, "SELECT 1 FROM pg_inherits WHERE inhdetachpending"), 30)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    figures = json.loads(output)
    assert process.returncode == 130
    assert figures["interrupted"]
    assert (figures["created"], figures["dropped"]) == (days(8, 9), [])
    assert json.loads(cli.run("partitions", "--json").stdout)["dropped"] == days(-100)


def test_two_at_once(database: str, store: Store) -> None:
    with Store(database) as other, sole_transaction(other, MANAGE_PARTITIONS):
        done = perform(store, MANAGE_PARTITIONS, lambda: manage_partitions(store, Settings(partitions_ahead_days=9)))
    assert done == {"busy": True}
    assert attached(database) == days(*range(8))
