"""Conversations are counted once, on the day and in the live or retired row of their first event."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.retired import soft_delete, track
from usage_worker.maintenance import purge, reconcile
from usage_worker.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import Bench
    from usage_worker.ingest import FlushReport
    from usage_worker.service.resources import Resources

WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
COUNTERS = "SELECT usage_count, conversation_count FROM public.user_agents WHERE user_id = %s"
DAYS = "SELECT day, conversation_count FROM public.usage_daily WHERE user_id = %s ORDER BY day"
TWO_DAYS = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)


@pytest.fixture
def users(bench: Bench) -> list[UUID]:
    """Return two users in the order in which a batch locks their rows; each has used the first agent."""
    users = sorted(bench.users)[:2]
    bench.publish(*(use(bench, user) for user in users))
    bench.flush()
    return users


def use(bench: Bench, user_id: UUID, conversation: UUID | None = None, when: datetime | None = None) -> dict[str, Any]:
    ids = {"event_id": uuid4(), "user_id": user_id, "agent_id": bench.agents[0], "conversation_id": conversation}
    return ids | {"occurred_at": when or datetime.now(UTC)}


def add_to_shard(bench: Bench, shard: int, *events: dict[str, Any]) -> None:
    for event in events:
        bench.oracle.add(event)
    bench.xadd(json.dumps(events, default=str), shard=shard)


@contextmanager
def flush_waiting(bench: Bench, user_id: UUID) -> Iterator[None]:
    """Hold a flush of the first shard at a row lock during the block; its snapshot is older than the block."""
    url = bench.resources.settings.database_url
    with ThreadPoolExecutor(1) as worker, psycopg.connect(url) as holder:
        holder.execute("SELECT FROM public.user_agents WHERE user_id = %s FOR UPDATE", [user_id])
        flush = worker.submit(bench.flush_shard, 0)
        eventually(lambda: run(url, WAITS))
        yield
        holder.rollback()
        flush.result(30)


def test_conversation_is_counted_again_after_purge(bench: Bench, users: list[UUID]) -> None:
    """The pair is purged and recreated after the batch has read its conversations and before it writes counters."""
    settings = bench.resources.settings
    first, second = users
    conversation = uuid4()
    bench.publish(use(bench, second, conversation))
    bench.flush()
    soft_delete(settings.database_url, second, bench.agents[0])
    add_to_shard(bench, 0, use(bench, first, uuid4()), use(bench, second, conversation))
    with Store(settings.database_url) as other, flush_waiting(bench, first):
        assert purge(other, timedelta(days=30)).purged == 1
        track(settings.database_url, second, bench.agents[0])
    assert run(settings.database_url, COUNTERS, second) == [(2, 1)]
    assert run(settings.database_url, COUNTERS, first) == [(2, 1)]
    assert reconcile(bench.resources.store, settings).differences == []


@pytest.mark.parametrize("days", [1, 2])
def test_conversation_opened_by_two_batches_is_counted_once(
    bench: Bench, users: list[UUID], make_resources: Callable[..., Resources], days: int
) -> None:
    url = bench.resources.settings.database_url
    first, second = users
    common, others = uuid4(), [uuid4() for _ in range(3)]
    here, there = (common, others[0], common), (others[1], common, others[2])
    add_to_shard(bench, 0, use(bench, first, uuid4(), TWO_DAYS[-days]), *(use(bench, second, it) for it in here))
    add_to_shard(bench, 1, *(use(bench, second, it) for it in there))
    with flush_waiting(bench, first):
        # Happens when a shard is drained by hand, or when producers choose different shards for a user.
        report: FlushReport = make_resources().flusher.flush(1)
        assert report.intake.applied == 3
    assert run(url, COUNTERS, second) == [(7, 4)]
    bench.check()


def test_conversation_is_counted_on_day_of_first_use(bench: Bench, users: list[UUID]) -> None:
    yesterday, today = TWO_DAYS
    user, conversations = users[0], [uuid4() for _ in range(3)]
    known, both, later = conversations
    bench.publish(use(bench, user, known, yesterday))
    bench.flush()
    add_to_shard(
        bench,
        0,
        *(use(bench, user, conversation, today) for conversation in (known, both, later, later)),
        *(use(bench, user, conversation, yesterday) for conversation in (both, known)),
    )
    bench.flush()
    assert run(bench.resources.settings.database_url, DAYS, user) == [(yesterday.date(), 2), (today.date(), 1)]
    bench.check()
