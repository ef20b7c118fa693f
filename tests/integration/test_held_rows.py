"""Rows and tables that others hold: their events wait, all others are counted, and who holds them is named."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from json import dumps, loads
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import NOW
from tests.integration.database import run
from usage_worker.errors import LockHeldError
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, matching_dead_letters, replay
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.holding import DEATHS_BEFORE_SET_ASIDE, deaths_key
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

WAITING = "SELECT count(*) FROM usage_entries WHERE held_in IS NOT NULL"


@pytest.fixture
def harness(harness: IngestHarness, make_resources: Callable[..., Resources]) -> IngestHarness:
    """Return the harness with a worker that reclaims entries soon."""
    harness.worker = make_resources(reclaim_idle=0.1)
    return harness


def use(harness: IngestHarness, user: int, agent: int = 0, **fields: Any) -> dict[str, Any]:
    pair = {"user_id": harness.users[user], "agent_id": harness.agents[agent]}
    return {"event_id": uuid4(), "occurred_at": NOW, "tokens": 5, **pair, **fields}


@contextmanager
def holding(harness: IngestHarness, statement: str, *parameters: object) -> Iterator[psycopg.Connection[Any]]:
    """Keep a transaction open that has executed the statement."""
    with psycopg.connect(harness.resources.settings.database_url) as holder:
        holder.execute(statement.encode(), parameters or None)
        yield holder
        holder.rollback()


def drain(harness: IngestHarness) -> None:
    def is_empty() -> bool:
        harness.flush()
        return not any(harness.resources.stream.backlog(shard).entries for shard in range(2))

    eventually(is_empty, 30)


HOLDS = {
    "an update of his row": "UPDATE user_agents SET folder = 'x' WHERE user_id = %s",
    "the deletion of his row": "DELETE FROM user_agents WHERE user_id = %s",
    "a row that nobody sees yet": "INSERT INTO user_agents (user_id, agent_id) SELECT %s, id FROM agents",
    "the deletion of his account": "DELETE FROM auth.users WHERE id = %s",
}


@pytest.mark.parametrize("how", HOLDS)
def test_others_are_counted_while_a_tenant_holds_his_rows(harness: IngestHarness, how: str) -> None:
    if how in ("an update of his row", "the deletion of his row"):
        harness.publish(use(harness, 0), use(harness, 1))
        harness.flush()
    first, others = [use(harness, 0), use(harness, 0, 1)], [use(harness, user) for user in range(1, 20)]
    before = harness.resources.store.intake_totals().applied
    with holding(harness, HOLDS[how], harness.users[0]) as holder:
        pid = holder.info.backend_pid
        harness.publish(*first, *others)
        harness.flush()
        # A second pair of the tenant may be new, and not held.
        assert harness.resources.store.intake_totals().applied - before in (len(others), len(others) + 1)
        shard = harness.resources.stream.shard_of(harness.users[0])
        assert f"pid {pid} (role " in str(FlushRecords(harness.worker.stream.connection).read(shard)[0].holders)
        # His events are not taken again at once, and a duplicate of them waits, too.
        harness.publish(first[0], counted=False)
        harness.flush()
        assert run(harness.resources.settings.database_url, WAITING)[0][0] >= 1
    drain(harness)
    harness.check()
    sent = len(first) + len(others) + 1
    intake = harness.resources.store.intake_totals()
    assert (intake.accepted - before, intake.duplicate) == (sent, 1)
    assert run(harness.resources.settings.database_url, WAITING) == [(0,)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_entry_that_waits_in_part_survives_copies_and_death(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Of one entry some events are counted, some wait, one is refused, one is there twice; copies of it arrive."""
    harness.publish(*(use(harness, user) for user in range(4)))
    harness.flush()
    before = harness.resources.store.intake_totals()
    events = [use(harness, user) for user in (0, 1, 2, 3)]
    bad = use(harness, 1, tokens=-1)
    body = dumps([*events, events[0], events[2], bad], default=str)
    for event in events:
        harness.oracle.add(event)
    key = str(uuid4())
    url = harness.resources.settings.database_url
    hold = "SELECT FROM user_agents WHERE user_id = ANY (%s) FOR UPDATE"
    with holding(harness, hold, [harness.users[0], harness.users[1]]):
        harness.xadd(body, id=key)
        assert harness.flush() == Intake(5, 2, 2, 1)
        harness.xadd(body, id=key)  # a copy, before the first is counted
        assert harness.flush() == Intake()
        eventually(lambda: run(url, WAITING) == [(1,)])
    with holding(harness, hold, [harness.users[1]]):
        # One of the two that wait is free; another worker counts it and dies before it says so to Redis.
        dying = make_resources(reclaim_idle=0.1)
        dying.stream.done = lambda *_: []  # type: ignore[method-assign]
        eventually(lambda: sum(dying.flusher.flush(0).intake.applied for _ in range(2)), 30)
        assert run(url, WAITING) == [(1,)]
        harness.xadd(dumps([events[1]], default=str))  # the same event from elsewhere
        harness.flush()
    drain(harness)
    harness.check()
    intake = harness.resources.store.intake_totals()
    assert (intake.accepted - before.accepted, intake.duplicate, intake.quarantined) == (8, 3, 1)
    assert run(url, WAITING) == [(0,)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_events_wait_on_where_another_entry_uses_their_key(harness: IngestHarness) -> None:
    key, url = str(uuid4()), harness.resources.settings.database_url
    harness.publish(use(harness, 0), use(harness, 1))
    drain(harness)
    before = harness.resources.store.intake_totals()
    with holding(harness, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", harness.users[0]):
        harness.xadd(dumps([use(harness, 1), use(harness, 0)], default=str), id=key)
        eventually(lambda: harness.flush().applied)
        # In batches of their own: the entry whose events wait is read only when it is due again.
        harness.worker.settings = harness.worker.settings.model_copy(update={"reclaim_idle": 60})
        harness.xadd(dumps([use(harness, 1)], default=str), id=key)
        eventually(lambda: harness.flush().quarantined)
        assert run(url, WAITING) == [(1,)]
    drain(harness)
    intake = harness.resources.store.intake_totals()
    assert (intake.applied - before.applied, intake.quarantined - before.quarantined) == (2, 1)


@pytest.mark.parametrize("bad", [3, 150], ids=["letters of their own", "one letter"])
@pytest.mark.parametrize("held_first", [False, True], ids=["others first", "waiting ones first"])
def test_events_that_wait_until_they_are_too_old_become_dead_letters(
    harness: IngestHarness, make_resources: Callable[..., Resources], bad: int, held_first: bool
) -> None:
    """Those that wait, and no others, whether too old events share a letter or not."""
    url = harness.resources.settings.database_url
    old = NOW - timedelta(days=2)
    others = [use(harness, 1, occurred_at=old) for _ in range(bad)]
    waiting = [use(harness, 0, occurred_at=old + timedelta(seconds=number)) for number in range(2)]
    fresh = use(harness, 0)
    events = [*waiting, fresh, *others] if held_first else [*others, fresh, *waiting]
    harness.publish(use(harness, 0), use(harness, 1))
    drain(harness)
    before = harness.resources.store.intake_totals()
    with holding(harness, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", harness.users[0]):
        harness.xadd(dumps(events, default=str), id=str(uuid4()))
        eventually(lambda: harness.flush().applied == bad)
        assert run(url, WAITING) == [(1,)]
    harness.worker = make_resources(reclaim_idle=0.1, accept_days=1)
    drain(harness)
    intake = harness.resources.store.intake_totals()
    assert (intake.applied - before.applied, intake.quarantined - before.quarantined) == (bad + 1, 2)
    letters = "SELECT sum(events)::integer FROM usage_dead_letters"
    assert run(url, letters) == [(2,)]
    kept = " ".join(row[0] for row in run(url, "SELECT payload FROM usage_dead_letters"))
    assert [str(event["event_id"]) in kept for event in events] == [event in waiting for event in events]


def test_many_entries_that_wait_leave_new_ones_their_turn(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """All of them are due again in each turn, and take longer than it."""
    harness.publish(use(harness, 0), use(harness, 1))
    harness.flush()
    harness.worker = make_resources(reclaim_idle=0.001, batch_events=50)
    with holding(harness, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", harness.users[0]):
        for _ in range(1_000):
            harness.xadd(dumps([use(harness, 0)], default=str), id=str(uuid4()))
        harness.flush()
        assert run(harness.resources.settings.database_url, WAITING) == [(1_000,)]
        harness.xadd(dumps([use(harness, 1)], default=str), id=str(uuid4()))
        eventually(lambda: harness.worker.flusher.flush(0, 0.4).intake.applied)


def test_entry_that_ends_workers_keeps_the_events_that_wait(harness: IngestHarness) -> None:
    """Some of its events are counted when it is set aside."""
    url = harness.resources.settings.database_url
    harness.publish(use(harness, 0), use(harness, 1))
    drain(harness)
    events = [use(harness, 1), use(harness, 0), use(harness, 1)]
    with holding(harness, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", harness.users[0]):
        entry_id = harness.xadd(dumps(events, default=str), id=str(uuid4()))
        eventually(lambda: harness.flush().applied == 2)
    harness.redis.hset(deaths_key(0), entry_id, DEATHS_BEFORE_SET_ASIDE)
    drain(harness)
    ((position, number, payload),) = run(url, "SELECT position, events, payload FROM usage_dead_letters")
    assert (position, number) == (1, 1)
    assert loads(loads(payload)["events"]) == loads(dumps(events, default=str)), "it is not read again"


def test_replay_of_an_entry_that_was_set_aside_counts_what_waited(harness: IngestHarness) -> None:
    """Its events have no identity but their places, and its letter has all of them."""
    harness.publish(use(harness, 0), use(harness, 1))
    drain(harness)
    pairs = [{"user_id": harness.users[user], "agent_id": harness.agents[0]} for user in (1, 1, 0, 1, 1, 0, 0, 1)]
    with holding(harness, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", harness.users[0]):
        entry_id = harness.xadd(dumps(pairs, default=str), id=str(uuid4()), n="8")
        eventually(lambda: harness.flush().applied == 5)
    harness.redis.hset(deaths_key(0), entry_id, DEATHS_BEFORE_SET_ASIDE)
    drain(harness)
    store, settings = harness.resources.store, harness.resources.settings
    letters = list(matching_dead_letters(store, DeadLetterFilter()))
    assert [letter["events"] for letter in letters] == [3]
    for counted in (3, 0):
        with UsagePublisher(settings.redis_url, linger=0, backfill=True) as publisher:
            replay(store, publisher, letters, RepairEdits(), settings, lambda *_: None)
        assert harness.flush() == Intake(8, counted, 8 - counted, 0)


def test_locked_table_is_named_and_nothing_is_taken(harness: IngestHarness) -> None:
    harness.publish(use(harness, 0))
    shard = harness.resources.stream.shard_of(harness.users[0])
    with holding(harness, "LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE") as holder:
        with pytest.raises(LockHeldError, match=rf"held by pid {holder.info.backend_pid} \(role "):
            harness.flush_shard(shard)
        assert harness.resources.stream.backlog(shard).pending == 0
    harness.flush()
    harness.check()


def test_our_own_transactions_are_named_last(harness: IngestHarness) -> None:
    """While a backlog is worked off, a batch of another shard is always older than the wait for a lock."""
    harness.publish(use(harness, 0))
    shard = harness.resources.stream.shard_of(harness.users[0])
    url = harness.resources.settings.database_url
    with psycopg.connect(url, application_name="usage-worker") as batch:
        batch.execute("DELETE FROM usage_daily WHERE false")
        ours = rf"pid {batch.info.backend_pid} \(usage-worker, role "
        with holding(harness, "LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE") as holder:
            others = rf"pid {holder.info.backend_pid} \(role "
            with pytest.raises(LockHeldError, match=rf"held by {others}.* or {ours}"):
                harness.flush_shard(shard)


def test_lower_lock_timeout_of_role_is_kept(harness: IngestHarness) -> None:
    url = harness.resources.settings.database_url
    name = url.partition("?")[0].rpartition("/")[2]
    run(url, f"ALTER DATABASE {name} SET lock_timeout = '30ms'")
    harness.publish(use(harness, 0))
    shard = harness.resources.stream.shard_of(harness.users[0])
    started = run(url, "SELECT clock_timestamp()")[0][0]
    with holding(harness, "LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE"), pytest.raises(LockHeldError):
        harness.flush_shard(shard)
    assert (run(url, "SELECT clock_timestamp()")[0][0] - started).total_seconds() < 2
    drain(harness)
    harness.check()
