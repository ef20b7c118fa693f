"""Limits of the administrator: time for statements and transactions, cancelled statements, read-only phases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.helpers import eventually
from tests.integration.commands import NOW
from tests.integration.database import run, with_option
from usage_worker.errors import StatementCancelledError, StoreUnavailableError
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import delete_ownerless_ids
from usage_worker.store.forget import all_letters
from usage_worker.store.hours import different_hours, mark_different_hours
from usage_worker.store.intake import Intake
from usage_worker.store.purge import purge_blocks, purge_due
from usage_worker.store.reconcile import (
    FIRST_PAIR,
    count_pairs,
    counter_differences,
    day_differences,
    next_pairs,
    recorded_by_day,
)
from usage_worker.store.search import embedding_status, stale_agents

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

# Ten milliseconds for an event, five seconds for one of the model `slow`.
SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_catalog.pg_sleep(CASE NEW.model WHEN 'slow' THEN 5 ELSE 0.01 END);
        RETURN NEW;
    END $$;
    CREATE TRIGGER slow BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION slow()
"""


@pytest.fixture
def harness(harness: IngestHarness, make_resources: Callable[..., Resources]) -> IngestHarness:
    """Return the harness with a worker that reclaims entries soon."""
    harness.worker = make_resources(reclaim_idle=0.1)
    return harness


def configure(harness: IngestHarness, name: str, value: str) -> None:
    with psycopg.connect(harness.resources.settings.database_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
        database = sql.Identifier(connection.info.dbname)
        connection.execute(statement.format(database, sql.Identifier(name), sql.Literal(value)))


def add_entry(harness: IngestHarness, events: int, **fields: Any) -> None:
    entry = [
        {"event_id": uuid4(), "user_id": harness.users[number % 20], "agent_id": harness.agents[0], **fields}
        | {"occurred_at": NOW}
        for number in range(events)
    ]
    for event in entry:
        harness.oracle.add(event)
    harness.xadd(dumps(entry, default=str), n=str(events))


def test_cancelled_batches_are_counted_in_parts(harness: IngestHarness) -> None:
    url = harness.resources.settings.database_url
    run(url, SLOW)
    configure(harness, "statement_timeout", "1s")
    for size in (*[20] * 10, 150):
        add_entry(harness, size)
    assert harness.flush() == Intake(350, 350, 0, 0)
    cancelled = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    run(url, "SELECT pg_stat_force_next_flush()")
    before = run(url, cancelled)
    for _ in range(10):
        add_entry(harness, 20)
    assert harness.flush() == Intake(200, 200, 0, 0)
    harness.check()
    harness.worker.close()  # its session reports its statistics
    assert run(url, cancelled) == before, "later batches are small from the start"


def test_event_that_takes_too_long_waits_and_is_not_refused(harness: IngestHarness) -> None:
    url = harness.resources.settings.database_url
    run(url, SLOW)
    configure(harness, "statement_timeout", "1500ms")
    add_entry(harness, 5)
    add_entry(harness, 1, model="slow")
    add_entry(harness, 5)
    with pytest.raises(StatementCancelledError, match="statement_timeout is 1500ms"):
        harness.flush_shard(0)
    assert harness.resources.stream.backlog(0).entries == 1, "its neighbours are counted and gone"
    assert harness.worker.flusher.intake == Intake(10, 10, 0, 0), "a drain says so"
    with pytest.raises(StatementCancelledError):
        eventually(lambda: harness.flush_shard(0).batches)
    assert harness.dead_letters() == []
    run(url, "DROP TRIGGER slow ON usage_events")
    eventually(lambda: harness.flush().applied)
    harness.check()
    assert harness.resources.store.intake_totals() == Intake(11, 11, 0, 0)


def test_statement_cancelled_by_hand_is_repeated(harness: IngestHarness) -> None:
    add_entry(harness, 1)
    harness.flush()
    add_entry(harness, 1)
    url = harness.resources.settings.database_url
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(1) as worker, psycopg.connect(url) as holder:
        holder.execute("SELECT FROM user_agents FOR UPDATE")
        flush = worker.submit(harness.flush)
        eventually(lambda: run(url, cancel))
        holder.rollback()
        assert flush.result(30) == Intake(1, 1, 0, 0)
    harness.check()


def test_maintenance_outlives_a_limit_of_statements(database: str) -> None:
    """It is there for clients: a comparison that it ends would be ended each night, as would an erasure's last step."""
    tables = "auth.users, agents, usage_events, usage_daily, user_agents, user_agent_conversations, usage_dead_letters"
    first, day = FIRST_PAIR, datetime.now(UTC).date()
    waits = """
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
           AND query_start < clock_timestamp() - interval '400 milliseconds'
    """
    limited = with_option(database, "statement_timeout=300ms")
    with Store(limited) as store, psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        for work in (
            partial(next_pairs, store, first, 10, 10),
            partial(count_pairs, store, first, None),
            partial(counter_differences, store, first, None),
            partial(day_differences, store, day),
            partial(recorded_by_day, store, day),
            partial(different_hours, store, day),
            partial(mark_different_hours, store, day),
            partial(delete_ownerless_ids, store, "task"),
            partial(next, all_letters(store, "public.usage_dead_letters"), []),
            partial(purge_due, store, timedelta()),
            partial(purge_blocks, store, timedelta(), 10),
            partial(stale_agents, store, "model", 10),
            partial(embedding_status, store),
        ):
            holder.execute(f"LOCK TABLE {tables}")
            working = pool.submit(work)
            eventually(lambda: run(database, waits))
            holder.rollback()
            working.result(30)


def test_read_only_phase_takes_nothing_and_ends_by_itself(harness: IngestHarness) -> None:
    configure(harness, "default_transaction_read_only", "on")
    add_entry(harness, 3)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="read-only"):
            harness.flush_shard(0)
    assert harness.resources.stream.backlog(0).pending == 0
    # Reading works meanwhile, in a session that began in this phase.
    assert harness.worker.store.intake_totals() == Intake()
    configure(harness, "default_transaction_read_only", "off")
    with pytest.raises(StoreUnavailableError):
        harness.flush_shard(0)
    assert harness.flush() == Intake(3, 3, 0, 0)
    harness.check()
