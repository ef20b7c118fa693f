"""Events that are corrected while workers count: every total is exact, and nobody waits for ever."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM
from tests.integration.conftest import cli, harness, make_resources
from tests.integration.corrections import HISTORY, NOW, check_corrected, correct_one, corrected, count, use, with_fields
from tests.integration.database import run
from usage_worker.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

__all__ = ["cli", "harness", "make_resources"]
WAITS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_two_corrections_at_once(harness: IngestHarness, database: str) -> None:
    event = use(harness, cost_usd=1)
    count(harness, event)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        others = [pool.submit(correct_one, harness, event, cost_usd=cost) for cost in (2, 3)]
        eventually(lambda: run(database, WAITS))
        holder.rollback()
        assert all(other.result(30).changes for other in others)
    chain = [changes["cost_usd"] for changes, *_ in run(database, HISTORY, event["event_id"])]
    assert [it["old"] for it in chain] == [1, chain[0]["new"]]
    check_corrected(harness, [event | {"cost_usd": chain[1]["new"]}])


def test_conversation_is_forgotten_while_a_batch_counts_it(harness: IngestHarness, database: str) -> None:
    """A batch that has read that the conversation is known must not lose it."""
    first, second = sorted(range(len(harness.users)), key=lambda place: harness.users[place])[:2]
    conversation = uuid4()
    other, event = use(harness, user=first), use(harness, user=second, conversation_id=conversation)
    count(harness, other, event)
    waiting = [use(harness, ago=30, user=first), use(harness, ago=30, user=second, conversation_id=conversation)]
    harness.xadd(json.dumps(waiting, default=str))
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT FROM public.user_agents WHERE user_id = %s FOR UPDATE", [harness.users[first]])
        flush = pool.submit(harness.flush_shard, 0)
        eventually(lambda: run(database, WAITS))
        correction = pool.submit(correct_one, harness, event, conversation_id=None)
        eventually(lambda: run(database, f"{WAITS} AND wait_event = 'relation'"))
        holder.rollback()
        assert flush.result(30).intake.applied == 2
        assert correction.result(30).kept_conversation in (None, "elsewhere")
    check_corrected(harness, [other, with_fields(event, {"conversation_id": None}), *waiting])


def random_event(
    chosen: random.Random, harness: IngestHarness, conversations: list[UUID], number: int
) -> dict[str, Any]:
    pair = {"user_id": chosen.choice(harness.users[:2]), "agent_id": chosen.choice(harness.agents[:2])}
    when = NOW - timedelta(days=chosen.randrange(3), seconds=chosen.randrange(60), microseconds=number)
    base = {"event_id": uuid4(), "occurred_at": when, **pair}
    if chosen.random() < 0.2:
        return base | {"type": "rating", "rating": chosen.randrange(11) / 2}
    return with_fields(base, random_fields(chosen, conversations))


def random_fields(chosen: random.Random, conversations: list[UUID]) -> dict[str, Any]:
    fields = {
        "conversation_id": chosen.choice([None, None, *conversations]),
        "response_time_ms": chosen.choice([None, 0, chosen.randrange(10_000)]),
        "cost_usd": chosen.choice([None, Decimal(chosen.randrange(10**12)).scaleb(-10)]),
        "success": chosen.random() < 0.5,
        "messages": chosen.randrange(5),
        "input_tokens": chosen.randrange(100),
        "cached_input_tokens": chosen.choice([None, chosen.randrange(50)]),
    }
    names = chosen.sample(sorted(fields), chosen.randrange(1, len(fields)))
    return {name: fields[name] for name in names}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_corrections_during_ingest(
    harness: IngestHarness, make_resources: Callable[..., Resources], seed: int
) -> None:
    """Streams with duplicates are flushed by two workers while events of before are corrected."""
    chosen = random.Random(seed)
    conversations = [uuid4() for _ in range(4)]
    workers = [make_resources(), make_resources()]
    shards = harness.resources.stream.shards
    events: dict[UUID, dict[str, Any]] = {}
    for turn in range(4):
        known = list(events.values())
        fresh = [random_event(chosen, harness, conversations, 100 * turn + place) for place in range(40)]
        harness.publish(*fresh, *chosen.sample(known, min(5, len(known))), *fresh[:5], counted=False)
        with ThreadPoolExecutor(2) as pool:
            flushes = [pool.submit(worker.flusher.flush, shard, 60) for shard in range(shards) for worker in workers]
            for event in chosen.sample(known, min(12, len(known))):
                is_rating = event.get("type") == "rating"
                fields: dict[str, Any] = (
                    {"rating": chosen.randrange(11) / 2} if is_rating else random_fields(chosen, conversations)
                )
                correct_one(harness, event, **fields)
                events[event["event_id"]] = with_fields(event, fields)
            for flush in flushes:
                flush.result(60)
        harness.flush()
        events |= {event["event_id"]: event for event in fresh}
    check_corrected(harness, events.values())


def test_duplicate_during_a_correction(harness: IngestHarness, database: str) -> None:
    """The event comes again, as it was, while its correction waits for its pair: it undoes nothing."""
    event, other = use(harness, cost_usd=1, conversation_id=uuid4()), use(harness, user=1)
    count(harness, event)
    harness.publish(event, other, counted=False)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        correction = pool.submit(correct_one, harness, event, cost_usd=2, conversation_id=None)
        eventually(lambda: run(database, WAITS))
        intake = harness.flush()
        assert (intake.applied, intake.duplicate) == (1, 1)
        holder.rollback()
        assert correction.result(30).changes
    harness.publish(event, counted=False)
    assert harness.flush().duplicate == 1
    check_corrected(harness, [with_fields(event, {"cost_usd": 2, "conversation_id": None}), other])


def test_command_is_killed(harness: IngestHarness, cli: Cli, database: str) -> None:
    event = use(harness, cost_usd=1, messages=2)
    count(harness, event)
    command = ["correct", str(event["event_id"]), "--set", "cost_usd=3", "--set", "messages=5", "--yes"]
    with psycopg.connect(database) as holder:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        with subprocess.Popen([PROGRAM, *command], env=cli.env) as process:
            try:
                eventually(lambda: run(database, WAITS), timeout=30)
            finally:
                process.kill()
    check_corrected(harness, [event])
    assert run(database, HISTORY, event["event_id"]) == []
    assert cli.run(*command).returncode == 0
    check_corrected(harness, [event | {"cost_usd": 3, "messages": 5}])


def test_connection_is_ended(harness: IngestHarness, database: str) -> None:
    event = use(harness, cost_usd=1)
    count(harness, event)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        correction = pool.submit(correct_one, harness, event, cost_usd=3)
        [(backend,)] = eventually(lambda: run(database, WAITS))
        run(database, "SELECT pg_terminate_backend(%s)", backend)
        with pytest.raises(StoreUnavailableError):
            correction.result(30)
    check_corrected(harness, [event])
    check_corrected(harness, [corrected(harness, event, cost_usd=3)])


def test_erasure_waits_for_a_correction(harness: IngestHarness, forgetter: Cli, database: str) -> None:
    """Otherwise the history that it writes would name the user for ever."""
    event = use(harness)
    count(harness, event)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        correction = pool.submit(correct_one, harness, event, messages=2)
        eventually(lambda: run(database, WAITS))
        erasure = pool.submit(forgetter.run, "forget", str(event["user_id"]), "--yes")
        eventually(lambda: run(database, "SELECT 1 FROM public.usage_forgotten"), timeout=30)
        holder.rollback()
        assert correction.result(30).changes
        assert erasure.result(60).returncode == 0
    for table in ("usage_corrections", "usage_events", "user_agents"):
        assert run(database, f"SELECT 1 FROM public.{table}") == []
