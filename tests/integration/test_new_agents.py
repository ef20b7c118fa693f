"""Agents that nobody has created belong to all shards: no batch keeps another from counting them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.integration.commands import NOW
from tests.integration.database import run
from tests.integration.test_held_rows import WAITING
from usage_worker.events.external_ids import uuid_of
from usage_worker.publisher import UsagePublisher
from usage_worker.store.batch import BatchTransaction
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import IngestHarness
    from usage_worker.ingest import FlushReport
    from usage_worker.service.resources import Resources

ONE = Intake(1, 1, 0, 0)


@pytest.fixture
def make_creator(database: str, make_resources: Callable[..., Resources]) -> Callable[[], Resources]:
    """Return a function that makes a worker that creates unknown users and agents, with the owner's rights."""
    return lambda: make_resources(DATABASE_URL=database, unknown="create", reclaim_idle=0.001)


def users_of(harness: IngestHarness, shard: int) -> list[UUID]:
    return [user for user in harness.users if harness.resources.stream.shard_of(user) == shard]


def use(user: UUID, agent: UUID, **fields: Any) -> dict[str, Any]:
    return {"event_id": uuid4(), "occurred_at": NOW, "user_id": user, "agent_id": agent, "tokens": 5, **fields}


@contextmanager
def batch_before_commit(counting: Callable[[], FlushReport], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the first batch of `counting` open, with all that it has written, until the block ends."""
    add_intake = BatchTransaction.add_intake
    written, released = threading.Event(), threading.Event()

    def held(transaction: BatchTransaction, *arguments: Any, **options: Any) -> None:
        add_intake(transaction, *arguments, **options)
        if not written.is_set():
            written.set()
            released.wait(30)

    monkeypatch.setattr(BatchTransaction, "add_intake", held)
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(counting)
        try:
            assert written.wait(30)
            yield
            assert not counted.done()
        finally:
            released.set()
        assert counted.result(30).intake == ONE


def test_batch_with_a_new_agent_keeps_no_other_shard_from_it(
    harness: IngestHarness, make_creator: Callable[[], Resources], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = uuid4()
    first, second = make_creator(), make_creator()
    harness.publish(*(use(users_of(harness, shard)[0], agent) for shard in range(2)))
    with batch_before_commit(lambda: first.flusher.flush(0, 60), monkeypatch):
        assert second.flusher.flush(1, 60).intake == ONE
        assert run(database, WAITING) == [(0,)]
    harness.check()


@pytest.mark.parametrize("exists", [True, False])
def test_batch_with_a_new_id_of_an_agent_keeps_no_other_shard_from_it(
    harness: IngestHarness,
    make_creator: Callable[[], Resources],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    exists: bool,
) -> None:
    agent = uuid_of("agent", "bot")
    if exists:
        run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'bot')", agent)
    first, second = make_creator(), make_creator()
    with UsagePublisher(harness.resources.settings.redis_url, ids="uuid5", linger=0) as usage:
        for shard in range(2):
            assert usage.track(users_of(harness, shard)[0], "bot")
        assert usage.flush()
    with batch_before_commit(lambda: first.flusher.flush(0, 60), monkeypatch):
        assert second.flusher.flush(1, 60).intake == ONE
        assert run(database, WAITING) == [(0,)]
    assert run(database, "SELECT name FROM public.agents WHERE id = %s", agent) == [("bot",)]
    kept = "SELECT id, external_id FROM public.usage_external_ids WHERE kind = 'agent'"
    assert run(database, kept) == [(agent, "bot")]


def test_agent_that_is_refused_stops_no_other(
    harness: IngestHarness, make_creator: Callable[[], Resources], database: str
) -> None:
    good, bad = uuid4(), uuid4()
    run(database, f"ALTER TABLE public.agents ADD CHECK (id <> '{bad}')")
    users = users_of(harness, 0)
    harness.publish(*(use(user, good) for user in users))
    harness.publish(use(users[0], bad), counted=False)
    assert make_creator().flusher.flush(0, 60).intake == Intake(len(users) + 1, len(users), 0, 1)
    assert "agents" in harness.dead_letters()[0]["reason"]
    harness.check()


def test_agent_that_is_deleted_before_its_batch_is_created_again(
    harness: IngestHarness, make_creator: Callable[[], Resources], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, deleted = uuid4(), []
    missing_pairs = BatchTransaction.missing_pairs

    def late(transaction: BatchTransaction) -> list[Any]:
        deleted.extend(run(database, "DELETE FROM public.agents WHERE id = %s RETURNING id", agent))
        return missing_pairs(transaction)

    monkeypatch.setattr(BatchTransaction, "missing_pairs", late)
    harness.publish(use(users_of(harness, 0)[0], agent))
    assert make_creator().flusher.flush(0, 60).intake == ONE
    assert deleted == [(agent,)]
    harness.check()


def test_agent_that_was_deleted_with_its_id_gets_its_name_again(
    harness: IngestHarness, make_creator: Callable[[], Resources], database: str
) -> None:
    creator = make_creator()
    run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'bot')", uuid_of("agent", "bot"))
    delete = "DELETE FROM public.agents; DELETE FROM public.usage_external_ids WHERE kind = 'agent'"
    with UsagePublisher(harness.resources.settings.redis_url, ids="uuid5", linger=0) as usage:
        for before in ("SELECT 1", delete):
            run(database, before)
            assert usage.track(users_of(harness, 0)[0], "bot")
            assert usage.flush()
            assert creator.flusher.flush(0, 60).intake == ONE
        assert run(database, "SELECT name FROM public.agents") == [("bot",)]
