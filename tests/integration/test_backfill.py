"""Backfills on real servers: old events count once, whatever is dropped meanwhile, and no others are taken."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import send_file
from tests.integration.database import run
from tests.integration.ledger import attached_partitions, create_days, date_of, days
from tests.integration.test_ingest import event, traffic
from usage_worker.errors import SettingsError
from usage_worker.events.event import Window
from usage_worker.events.wire import prepare
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, matching_dead_letters, replay
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.file_import import ImportReport
from usage_worker.publisher.spend_logs import COLUMNS, read_row
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.settings import Settings
from usage_worker.store.intake import Intake
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.ingest import Flusher
    from usage_worker.service.resources import Resources

RETENTION_DAYS = Settings().retention_days
# A wait of the batch, at the registration of its entries, while a session holds the lock 7.
PAUSE = """
    CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END';
    CREATE TRIGGER pause BEFORE INSERT ON usage_entries FOR EACH ROW EXECUTE FUNCTION pause()
"""
SPEND_LOGS = """
    CREATE TABLE spend_logs (
        request_id text PRIMARY KEY, spend double precision, total_tokens integer, prompt_tokens integer,
        completion_tokens integer, "startTime" timestamp(3), "endTime" timestamp(3), model text,
        custom_llm_provider text, "user" text, status text, metadata jsonb
    )
"""


def ago(number: float) -> datetime:
    """Return a time so long before the beginning of today."""
    return datetime.combine(date_of(), time(), UTC) - timedelta(days=number)


def backfill(harness: IngestHarness, events: Iterable[dict[str, Any]], *, counted: bool = True) -> None:
    """Send events as `publish --backfill` does, and add them to the oracle if they are to be counted."""
    with UsagePublisher(harness.resources.settings.redis_url, linger=0, backfill=True) as publisher:
        for one in events:
            assert publisher.send(prepare(dict(one), Window.of_backfill(datetime.now(UTC), 10_000)))
            if counted:
                harness.oracle.add(one)
        assert publisher.flush()


def flushers(harness: IngestHarness) -> list[Flusher]:
    return [harness.worker.flusher, harness.resources.flusher]


def reasons(harness: IngestHarness) -> list[str]:
    return [dead_letter["reason"] for dead_letter in harness.dead_letters()]


def add_up(harness: IngestHarness) -> None:
    """Assert that counters, days and ledger agree with one another and with the oracle."""
    harness.check()
    settings = harness.resources.settings
    assert reconcile(harness.resources.store, settings).differences == []


@pytest.mark.parametrize("seed", range(2))
def test_every_split_into_live_and_backfill_gives_same_totals(harness: IngestHarness, seed: int) -> None:
    """The parts overlap, and arrive in any order."""
    random = Random(seed)
    ages = [random.uniform(0, RETENTION_DAYS - 1) for _ in range(15)]
    history = [one | {"occurred_at": ago(random.choice(ages))} for one in traffic(harness, 300, seed)]
    history += [event(harness, type="rating", rating=number, occurred_at=ago(ages[number])) for number in range(5)]
    recent = [one for one in history if one["occurred_at"] > ago(34)]
    live = random.sample(recent, random.randint(1, len(recent)))
    rest = [one for one in history if one not in live or random.random() < 0.2]
    steps: list[Callable[[], None]] = [lambda: harness.publish(*live), lambda: backfill(harness, rest)]
    random.shuffle(steps)
    for step in steps:
        step()
        if random.random() < 0.5:
            harness.flush()
    with ThreadPoolExecutor() as pool:  # two workers, which need the same partitions
        list(pool.map(lambda shard, flusher: flusher.flush(shard), range(2), flushers(harness)))
    totals = harness.resources.store.intake_totals()
    assert (totals.applied, totals.quarantined) == (len(history), 0)
    add_up(harness)
    backfill(harness, history)
    assert harness.flush() == Intake(len(history), 0, len(history), 0)
    add_up(harness)


def test_only_days_that_ledger_keeps_are_taken(harness: IngestHarness, database: str) -> None:
    """A day that the next run of the partition manager may drop is too old already."""
    first = ago(RETENTION_DAYS - 1)
    backfill(harness, [event(harness, occurred_at=first)])
    too_old = [event(harness, occurred_at=first - timedelta(microseconds=1)), event(harness, occurred_at=ago(1_000))]
    backfill(harness, too_old, counted=False)
    assert harness.flush() == Intake(3, 1, 0, 2)
    assert reasons(harness) == [f"occurred_at: older than the ledger keeps events ({RETENTION_DAYS} days)"] * 2
    assert manage_partitions(harness.resources.store, Settings()).dropped == []
    assert attached_partitions(database)[:1] == days(1 - RETENTION_DAYS)
    add_up(harness)


def test_entries_of_other_producers(harness: IngestHarness) -> None:
    """Only the mark makes an entry a backfill, and only events with a time of their own belong to one."""
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    old = pair | {"occurred_at": ago(60).isoformat()}
    keyed = [old | {"event_id": "order-7"}, pair | {"event_id": "order-8"}, pair]
    harness.xadd(json.dumps(keyed), backfill="1")
    assert harness.flush() == Intake(3, 1, 0, 2)
    assert reasons(harness) == ["occurred_at: an event of a backfill needs its own time"] * 2
    harness.oracle.add(keyed[0])
    harness.xadd(json.dumps([old]))
    harness.xadd(json.dumps([old]), backfill="0")
    harness.xadd(json.dumps([old]), backfill="1", times="publisher")
    assert harness.flush() == Intake(3, 0, 0, 3)
    assert reasons(harness)[2:] == ["occurred_at: older than the acceptance window (35 days)"] * 3
    harness.xadd(json.dumps([old, old]), backfill="1", id=str(uuid4()))
    assert harness.flush() == Intake(2, 2, 0, 0)


def test_backfill_waits_while_others_hold_the_ledger(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """An ANALYZE of it, whose transaction stays open, delays a missing day; live events are counted meanwhile."""
    harness.worker = make_resources(reclaim_idle=0.1)
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE usage_events IN SHARE UPDATE EXCLUSIVE MODE")
        backfill(harness, [event(harness, occurred_at=ago(60))])
        harness.publish(event(harness))
        assert harness.flush() == Intake(1, 1, 0, 0)
        shards = [shard for shard in range(2) if harness.resources.stream.backlog(shard).pending]
        record, _ = FlushRecords(harness.worker.stream.connection).read(shards[0])
        assert f"pid {holder.info.backend_pid} (role " in str(record.holders)
        harness.publish(event(harness))  # the backfill is reclaimed alone before it
        eventually(lambda: harness.flush() == Intake(1, 1, 0, 0))
        holder.rollback()
    eventually(lambda: harness.flush() == Intake(1, 1, 0, 0), 30)
    add_up(harness)


def test_dropped_day_is_never_counted_again(harness: IngestHarness) -> None:
    """The retention was shorter when the day was dropped. What the day had would not be recognised."""
    store = harness.resources.store
    counted, never = event(harness, occurred_at=ago(60)), event(harness, occurred_at=ago(70))
    backfill(harness, [counted])
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert manage_partitions(store, Settings(retention_days=50)).dropped == days(-60)
    other, live = event(harness, occurred_at=ago(60)), event(harness)
    backfill(harness, [counted, other], counted=False)
    backfill(harness, [never, live])
    assert harness.flush() == Intake(4, 2, 0, 2)
    day = ago(60).date()
    reason = f"occurred_at: the ledger has dropped {day}: an event of this day may have been counted before"
    assert reasons(harness) == [reason] * 2
    # So many that they share dead letters, once with all events of an entry, once with a part of them.
    backfill(harness, [event(harness, occurred_at=ago(60)) for _ in range(150)], counted=False)
    several = [event(harness, occurred_at=ago(day)) for day in (60, 61) for _ in range(150)]
    backfill(harness, several, counted=False)
    assert harness.flush() == Intake(450, 150, 0, 300)
    for one in several[150:]:
        harness.oracle.add(one)
    add_up(harness)


def test_dropped_day_is_never_counted_again_after_its_pairs_are_purged(harness: IngestHarness, database: str) -> None:
    store, settings = harness.resources.store, Settings(retention_days=50)
    old = event(harness, occurred_at=ago(60))
    backfill(harness, [old], counted=False)
    harness.flush()
    assert manage_partitions(store, settings).dropped == days(-60)
    run(database, "DELETE FROM user_agents")
    assert run(database, "SELECT count(*) FROM usage_daily WHERE day = %s", ago(60).date()) == [(0,)]
    backfill(harness, [old, event(harness, occurred_at=ago(60))], counted=False)
    assert harness.flush() == Intake(2, 0, 0, 2)
    # The hours know the day, too, if an older version has dropped it.
    run(database, "DELETE FROM agent_usage_daily")
    backfill(harness, [event(harness, occurred_at=ago(60))], counted=False)
    assert harness.flush() == Intake(1, 0, 0, 1)


def test_day_dropped_during_batch(harness: IngestHarness, database: str) -> None:
    """The partition is dropped after the batch has looked for it: its events are quarantined, not counted again."""
    old = event(harness, occurred_at=ago(60))
    backfill(harness, [old])
    harness.flush()
    run(database, PAUSE)
    backfill(harness, [old, event(harness, occurred_at=ago(60))], counted=False)
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
    with psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        flush = pool.submit(harness.flush)
        eventually(lambda: run(database, waiting))
        assert manage_partitions(harness.resources.store, Settings(retention_days=50)).dropped == days(-60)
        holder.rollback()
        assert flush.result() == Intake(2, 0, 0, 2)
    add_up(harness)


def test_partition_that_another_worker_creates_meanwhile_is_not_dropped(database: str) -> None:
    """The look at the ledger has one snapshot for everything: `to_regclass` would see what was created since."""
    day = ago(60).date()
    with psycopg.connect(database) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT FROM pg_class LIMIT 1")
        create_days(database, -60)
        seen = connection.execute(query("past_days"), {"days": [day], "accept_days": 35}).fetchall()
    assert seen == [(str(day), "missing")]


def test_missing_days_are_looked_for_once_by_their_index(database: str) -> None:
    rows = f"""
        SET session_replication_role = replica;
        INSERT INTO public.usage_daily (user_id, agent_id, day)
        SELECT gen_random_uuid(), gen_random_uuid(), '{ago(40).date()}'::date - n / 500
          FROM generate_series(1, 20000) AS n
    """
    run(database, rows)
    run(database, "VACUUM ANALYZE public.usage_daily")
    asked = {"days": [ago(day).date() for day in (50, 300, 301)], "accept_days": 35}
    with psycopg.connect(database) as connection:
        states = [state for _, state in connection.execute(query("past_days"), asked)]
        lines = [line for (line,) in connection.execute(f"EXPLAIN ANALYZE {query('past_days')}".encode(), asked)]
    assert states == ["missing", "missing", "dropped"]
    (scan,) = (line for line in lines if "Scan on usage_daily" in line)
    assert "Bitmap Heap Scan" in scan
    assert "loops=1" in scan


def test_worker_without_right_to_partition_refuses_only_its_events(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    backfill(harness, [event(harness, occurred_at=ago(day)) for day in (0, 300)])
    backfill(harness, [event(harness, occurred_at=ago(400))], counted=False)
    patient = make_resources(retention_days=500).flusher
    assert sum((patient.flush(shard).intake for shard in range(2)), Intake()) == Intake(3, 2, 0, 1)
    assert "counts the last 366 days only" in reasons(harness)[0]
    add_up(harness)


def test_old_events_are_replayed(harness: IngestHarness, database: str) -> None:
    """The user is added after the backfill."""
    old = event(harness, user_id=uuid4(), occurred_at=ago(60))
    backfill(harness, [old])
    assert harness.flush() == Intake(1, 0, 0, 1)
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", old["user_id"])
    store, url = harness.resources.store, harness.resources.settings.redis_url
    with UsagePublisher(url, linger=0, backfill=True) as publisher:
        letters = list(matching_dead_letters(store, DeadLetterFilter()))
        assert replay(store, publisher, letters, RepairEdits(), Settings(), unexpected) == ReplayReport(1, 0)
    assert harness.flush() == Intake(1, 1, 0, 0)
    add_up(harness)


def test_intake_of_backfill_may_exceed_ledger(harness: IngestHarness, database: str) -> None:
    """Of an event that was old when it was counted, the ledger forgets soon that it was."""
    create_days(database, *range(-12, 0))
    settings = harness.resources.settings.model_copy(update={"accept_days": 3})
    harness.publish(event(harness))
    backfill(harness, [event(harness, occurred_at=ago(day)) for day in (0, 60)])
    harness.flush()
    run(database, "UPDATE public.usage_intake SET day = day - 3")
    run(database, "UPDATE public.usage_events SET recorded_at = recorded_at - interval '3 days'")
    assert manage_partitions(harness.resources.store, Settings(retention_days=50)).dropped == days(-60)
    assert reconcile(harness.resources.store, settings).differences == []
    run(database, "UPDATE public.usage_intake SET applied = applied - 1, accepted = accepted - 1 WHERE applied > 0")
    run(database, "UPDATE public.usage_intake SET applied = 0, accepted = 0 WHERE stream LIKE '%% backfill'")
    (difference,) = reconcile(harness.resources.store, settings).differences
    assert (difference.column, difference.expected) == ("applied", 2)


def test_command_says_what_was_not_taken(harness: IngestHarness, cli: Cli, database: str) -> None:
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    old = [pair | {"occurred_at": ago(age).isoformat()} for age in (1, 40, 80, 90, 1_000)]
    lines = [*old, pair, {"user_id": 7, "occurred_at": ago(40).isoformat()}, pair | {"occurred_at": "soon"}]
    history = "".join(json.dumps(line) + "\n" for line in lines)
    done = cli.run("publish", "--backfill", "-", stdin=history.encode())
    assert (done.returncode, done.stdout) == (
        1,
        "3 events sent, 3 bad lines, 2 events older than the ledger keeps (90 days)\n",
    )
    bad = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in bad] == ["line 6", "line 7", "line 8"]
    assert bad[0] == "line 6: event refused: occurred_at: an event of a backfill needs its own time"
    assert harness.flush() == Intake(3, 3, 0, 0)
    with UsagePublisher(harness.resources.settings.redis_url, linger=0, backfill=True) as publisher:
        report, again = send_file(publisher, history, days=RETENTION_DAYS)
    assert report == ImportReport(sent=3, bad=3, too_old=2)
    assert again == bad
    assert harness.flush() == Intake(3, 0, 3, 0)
    assert run(database, "SELECT usage_count, first_used_at FROM user_agents") == [(3, ago(80))]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_spend_logs_of_litellm_are_imported(harness: IngestHarness, cli: Cli, database: str) -> None:
    """A table with the types of LiteLLM's, exported by PostgreSQL as CSV and as JSON: the same events."""
    user, agent = str(harness.users[0]), str(harness.agents[0])
    with psycopg.connect(database) as connection:
        connection.execute(SPEND_LOGS)
        insert = "INSERT INTO spend_logs VALUES (%s, 1.5e-05, 15, 12, 3, %s, %s, 'gpt-5', 'openai', %s, 'failure', %s)"
        times = [ago(50).replace(tzinfo=None) + timedelta(milliseconds=number) for number in (0, 2_000)]
        metadata = {"note": 'a "quoted", long\ntext', "agent_id": agent}
        connection.execute(insert, ["chatcmpl-1", *times, user, json.dumps(metadata)])
        with connection.cursor().copy("COPY spend_logs TO STDOUT CSV HEADER") as copy:
            table = b"".join(map(bytes, copy))
        (array,) = connection.execute("SELECT json_agg(s)::text FROM spend_logs s").fetchone() or ()
    done = cli.run("publish", "--backfill", "--csv", "-", "--from", "litellm-spend-logs", stdin=table)
    assert (done.returncode, done.stdout.partition(",")[0]) == (0, "1 event sent"), done
    assert harness.flush() == Intake(1, 1, 0, 0)
    url = harness.resources.settings.redis_url
    mapping = FieldMapping(COLUMNS, {}, assume_utc=True, read_row=read_row)
    with UsagePublisher(url, linger=0, backfill=True) as publisher:
        assert send_file(publisher, array, mapping, days=RETENTION_DAYS) == (ImportReport(sent=1, bad=0), [])
        other = FieldMapping(COLUMNS | {"user_id": "end_user"}, {}, assume_utc=True, read_row=read_row)
        with pytest.raises(SettingsError, match="--map or --from: no column end_user; there are request_id, spend, "):
            send_file(publisher, table.decode(), other, is_csv=True)
    assert harness.flush() == Intake(1, 0, 1, 0)
    with UsagePublisher(url, linger=0) as publisher:
        assert send_file(publisher, table.decode(), mapping, is_csv=True)[0] == ImportReport(sent=0, bad=1)
    assert run(
        database,
        "SELECT abs(extract(epoch FROM occurred_at - %s)) < 0.001, user_id::text, agent_id::text, input_tokens,"
        " output_tokens, cost_usd::text, model, provider, response_time_ms, success FROM usage_events",
        ago(50),
    ) == [(True, user, agent, 12, 3, "0.0000150000", "gpt-5", "openai", 2_000, False)]


def unexpected(number: int, error: Exception) -> None:
    pytest.fail(f"dead letter {number}: {error}")
