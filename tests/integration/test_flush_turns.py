"""A flush waits for events, sends for the next one, and is never one of two chains."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.helpers import eventually
from usage_worker.ingest import Turn
from usage_worker.ingest.batch_size import BatchSize
from usage_worker.queue import holding
from usage_worker.queue.claim import FlushClaim
from usage_worker.store.batch import BatchTransaction
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources


@pytest.fixture
def worker(make_resources: Callable[..., Resources]) -> Resources:
    return make_resources(stream_shards=1, batch_events=5)


def add(harness: IngestHarness, count: int) -> None:
    """Add entries of one event each."""
    for number in range(count):
        pair = {"user_id": harness.users[number % 20], "agent_id": harness.agents[0]}
        event = pair | {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "tokens": number}
        harness.oracle.add(event)
        harness.xadd(json.dumps([event], default=str))


def await_accepted(harness: IngestHarness, events: int) -> None:
    eventually(lambda: harness.resources.store.intake_totals().accepted == events)


def test_waiting_flush_counts_what_arrives_meanwhile(harness: IngestHarness, worker: Resources) -> None:
    stopping = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(worker.flusher.flush_alone, 0, None, Turn(120, 60, stopping.is_set))
        eventually(lambda: harness.redis.exists("usage:events:{0}"))
        for number in (1, 2):
            add(harness, 1)
            await_accepted(harness, number)
        assert not flush.done()
        stopping.set()
        report = flush.result(30)
    assert (report.batches, report.intake) == (2, Intake(2, 2, 0, 0))
    assert report.successor
    harness.check()


def test_calm_traffic_becomes_batches_of_fifty_milliseconds(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    flusher = make_resources(stream_shards=1).flusher
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(flusher.flush_alone, 0, None, Turn(60, wait=1))
        while not flush.done():
            add(harness, 1)
        report = flush.result()
    # One more that began before the turn was over, and two at the beginning, whose size is not known yet.
    assert 2 <= report.batches <= report.seconds / 0.05 + 3
    harness.flush()
    harness.check()


def test_backlog_is_counted_beyond_the_wait(harness: IngestHarness, worker: Resources) -> None:
    add(harness, 200)
    report = worker.flusher.flush_alone(0, None, Turn(60, wait=0.001))
    assert report.intake == Intake(200, 200, 0, 0)
    harness.check()


def test_next_batch_takes_what_arrives_while_one_is_counted(
    harness: IngestHarness, make_resources: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch
) -> None:
    flusher = make_resources(stream_shards=1, batch_events=20).flusher
    go_on = threading.Event()
    apply_staged = BatchTransaction.apply_staged

    def apply_later(transaction: BatchTransaction, ranges: list[tuple[str, str]]) -> int:
        assert go_on.wait(30)
        return apply_staged(transaction, ranges)

    def is_read(entries: int) -> bool:
        return harness.resources.stream.backlog(0).pending == entries

    monkeypatch.setattr(BatchTransaction, "apply_staged", apply_later)
    add(harness, 30)
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(flusher.flush_alone, 0, None, Turn(60, wait=0.001))
        eventually(lambda: is_read(30))
        add(harness, 5)
        eventually(lambda: is_read(35))
        go_on.set()
        report = flush.result(30)
    assert (report.batches, report.intake) == (2, Intake(35, 35, 0, 0))
    harness.check()


def test_size_is_told_how_long_rows_were_locked(
    harness: IngestHarness, worker: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float, float]] = []
    monkeypatch.setattr(BatchSize, "counted", lambda _, *figures: told.append(figures))
    for _ in range(2):  # the first batch also inserts pairs
        add(harness, 3)
        worker.flusher.flush(0)
    assert [events for events, _, _ in told] == [3, 3]
    assert all(0 < locked < seconds for _, seconds, locked in told)


def test_claim_is_renewed_while_a_flush_works(
    harness: IngestHarness, worker: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, stopping = "usage:flushing:{0}", threading.Event()
    monkeypatch.setattr(holding, "CLAIM_SECONDS", 0.1)  # how often it is renewed
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(worker.flusher.flush_alone, 0, None, Turn(60, 60, stopping.is_set))
        eventually(lambda: harness.redis.exists(key))
        harness.redis.expire(key, 8)
        eventually(lambda: harness.redis.ttl(key) > 8)
        stopping.set()
        flush.result(30)


def test_renewal_takes_no_claim_back(harness: IngestHarness, worker: Resources) -> None:
    claim, key = FlushClaim(worker.stream.connection, "one"), "usage:flushing:{0}"
    assert claim.take(0)
    renew = claim.renewal(0, time.monotonic() + 60)
    harness.redis.delete(key)
    renew()
    assert not harness.redis.exists(key)


def test_flush_that_hangs_does_not_keep_its_claim(harness: IngestHarness, worker: Resources) -> None:
    claim, key = FlushClaim(worker.stream.connection, "one"), "usage:flushing:{0}"
    assert claim.take(0)
    harness.redis.expire(key, 2)
    claim.renewal(0, time.monotonic())()
    assert harness.redis.ttl(key) <= 2


def test_flush_of_stopping_worker_ends_after_its_batch(harness: IngestHarness, worker: Resources) -> None:
    add(harness, 200)
    stopping = threading.Event()

    def is_stopping() -> bool:
        if harness.resources.store.intake_totals().accepted:
            stopping.set()
        return stopping.is_set()

    report = worker.flusher.flush_alone(0, None, Turn(60, wait=60, is_stopping=is_stopping))
    assert 0 < report.intake.accepted < 200
    assert report.successor  # for another worker
    assert harness.resources.stream.backlog(0).pending == 0
    harness.flush()
    harness.check()


def test_tick_between_two_flushes_of_a_chain_does_nothing(harness: IngestHarness, worker: Resources) -> None:
    """A pool of one process executes it there: frequent ticks of one shard took the turns of all others."""
    chain = worker.flusher.flush_alone(0).successor
    add(harness, 1)
    assert worker.flusher.flush_alone(0).successor is None
    assert harness.resources.stream.backlog(0).entries == 1
    assert worker.flusher.flush_alone(0, chain).successor not in (None, chain)
    harness.check()


def test_tick_begins_chain_again_and_ends_the_former(harness: IngestHarness, worker: Resources) -> None:
    """A message that seemed lost, because it waited for long, must not go on beside the new chain."""
    chain = worker.flusher.flush_alone(0).successor
    assert chain
    harness.redis.delete("usage:flushing:{0}")  # its token has expired
    newer = worker.flusher.flush_alone(0).successor  # a tick
    add(harness, 1)
    assert worker.flusher.flush_alone(0, chain).successor is None
    assert harness.resources.stream.backlog(0).entries == 1
    assert worker.flusher.flush_alone(0, newer).successor not in (None, chain, newer)
    harness.check()


def test_late_message_continues_the_chain_where_no_tick_came_first(harness: IngestHarness, worker: Resources) -> None:
    token = worker.flusher.flush_alone(0).successor
    harness.redis.delete("usage:flushing:{0}")
    assert worker.flusher.flush_alone(0, token).successor not in (None, token)


def test_failed_flush_has_no_successor_and_leaves_the_claim(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    failing = make_resources(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Exception, match="not available"):
        failing.flusher.flush_alone(0, None, Turn(60, wait=60))
    assert not harness.redis.exists("usage:flushing:{0}")


def test_claim_handed_over_while_another_holds_it(harness: IngestHarness) -> None:
    connection = harness.worker.stream.connection
    one, other = FlushClaim(connection, "one"), FlushClaim(connection, "other")
    assert one.take(0)
    assert other.hand_over(0) is None
    assert not other.take(0)
    token = one.hand_over(0)
    assert other.take(0, token)
    assert not one.take(0)
    assert one.hand_over(0) is None


def test_threads_of_a_process_hold_claims_of_their_own(harness: IngestHarness) -> None:
    claim = FlushClaim(harness.worker.stream.connection, "one")
    assert claim.take(0)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(claim.take, 0).result()
    assert claim.take(0)
