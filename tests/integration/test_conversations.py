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
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import IngestHarness
    from usage_worker.ingest import FlushReport
    from usage_worker.service.resources import Resources

WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
COUNTERS = "SELECT usage_count, conversation_count FROM public.user_agents WHERE user_id = %s"
DAYS = "SELECT day, conversation_count FROM public.usage_daily WHERE user_id = %s ORDER BY day"


@pytest.fixture
def users(harness: IngestHarness) -> list[UUID]:
    """Return two users in the order in which a batch locks their rows; each has used the first agent."""
    users = sorted(harness.users)[:2]
    harness.publish(*(use(harness, user) for user in users))
    harness.flush()
    return users


def days_ago(number: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=number)


def use(
    harness: IngestHarness, user_id: UUID, conversation: UUID | None = None, when: datetime | None = None
) -> dict[str, Any]:
    ids = {"event_id": uuid4(), "user_id": user_id, "agent_id": harness.agents[0], "conversation_id": conversation}
    return ids | {"occurred_at": when or datetime.now(UTC)}


def add_to_shard(harness: IngestHarness, shard: int, *events: dict[str, Any]) -> None:
    for event in events:
        harness.oracle.add(event)
    harness.xadd(json.dumps(events, default=str), shard=shard)


@contextmanager
def flush_waiting(harness: IngestHarness, user_id: UUID) -> Iterator[None]:
    """Hold a flush of the first shard at a row lock during the block; its snapshot is older than the block."""
    url = harness.resources.settings.database_url
    with ThreadPoolExecutor(1) as worker, psycopg.connect(url) as holder:
        holder.execute("SELECT FROM public.user_agents WHERE user_id = %s FOR UPDATE", [user_id])
        flush = worker.submit(harness.flush_shard, 0)
        eventually(lambda: run(url, WAITS))
        yield
        holder.rollback()
        flush.result(30)


def test_conversation_is_counted_again_after_purge(harness: IngestHarness, users: list[UUID]) -> None:
    """The pair is purged and recreated after the batch has read its conversations and before it writes counters."""
    settings = harness.resources.settings
    first, second = users
    conversation = uuid4()
    harness.publish(use(harness, second, conversation))
    harness.flush()
    soft_delete(settings.database_url, second, harness.agents[0])
    add_to_shard(harness, 0, use(harness, first, uuid4()), use(harness, second, conversation))
    with Store(settings.database_url) as other, flush_waiting(harness, first):
        assert purge(other, timedelta(days=30)).purged == 1
        track(settings.database_url, second, harness.agents[0])
    assert run(settings.database_url, COUNTERS, second) == [(2, 1)]
    assert run(settings.database_url, COUNTERS, first) == [(2, 1)]
    assert reconcile(harness.resources.store, settings).differences == []


@pytest.mark.parametrize("days", [1, 2])
def test_conversation_opened_by_two_batches_is_counted_once(
    harness: IngestHarness, users: list[UUID], make_resources: Callable[..., Resources], days: int
) -> None:
    url = harness.resources.settings.database_url
    first, second = users
    common, others = uuid4(), [uuid4() for _ in range(3)]
    here, there = (common, others[0], common), (others[1], common, others[2])
    opening = use(harness, first, uuid4(), days_ago(days - 1))
    add_to_shard(harness, 0, opening, *(use(harness, second, it) for it in here))
    add_to_shard(harness, 1, *(use(harness, second, it) for it in there))
    with flush_waiting(harness, first):
        # This happens when a shard is drained by hand, or when producers choose different shards for a user.
        report: FlushReport = make_resources().flusher.flush(1)
        assert report.intake.applied == 3
    assert run(url, COUNTERS, second) == [(7, 4)]
    harness.check()


def test_conversation_is_counted_on_day_of_first_use(harness: IngestHarness, users: list[UUID]) -> None:
    yesterday, today = days_ago(1), days_ago(0)
    user, conversations = users[0], [uuid4() for _ in range(3)]
    known, both, later = conversations
    harness.publish(use(harness, user, known, yesterday))
    harness.flush()
    add_to_shard(
        harness,
        0,
        *(use(harness, user, conversation, today) for conversation in (known, both, later, later)),
        *(use(harness, user, conversation, yesterday) for conversation in (both, known)),
    )
    harness.flush()
    assert run(harness.resources.settings.database_url, DAYS, user) == [(yesterday.date(), 2), (today.date(), 1)]
    harness.check()
