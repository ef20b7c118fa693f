"""A batch locks rows in key order, so that a client that does the same, and cannot repeat it, ends in no deadlock."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import NOW
from tests.integration.database import run, traffic
from tests.integration.retired import expected_uses, track, uses
from tests.integration.test_poison_database import POISON, install
from usage_worker.store.batch import BatchTransaction
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.integration.conftest import IngestHarness

LOCK = "SELECT FROM public.user_agents WHERE user_id = ANY (%s) ORDER BY user_id, agent_id FOR NO KEY UPDATE"
WAITING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'client' AND wait_event_type = 'Lock'"

HORIZON = """
    SELECT backend_xmin::text::bigint FROM pg_stat_activity
     WHERE application_name = 'usage-worker' AND wait_event_type = 'Lock'
"""


class Rival:
    """A client that locks the rows of some users in key order, in a thread of its own."""

    def __init__(self, url: str, users: list[UUID]) -> None:
        self._url, self._users = url, users
        self._begin = threading.Event()

    def lock_until_it_waits(self) -> None:
        self._begin.set()
        eventually(lambda: run(self._url, WAITING))

    def run(self, _: threading.Event) -> None:
        self._begin.wait(30)
        with psycopg.connect(self._url, application_name="client") as connection:
            connection.execute("SET deadlock_timeout = '100ms'")
            connection.execute(LOCK.encode(), [self._users])


@pytest.fixture
def users(harness: IngestHarness) -> list[UUID]:
    """Two users of one shard that have rows, in key order."""
    of_shard = (user for user in harness.users if harness.resources.stream.shard_of(user) == 0)
    users = sorted(of_shard, key=lambda user: user.int)[:2]
    harness.publish(*(use(harness, user) for user in users))
    assert harness.flush() == Intake(2, 2, 0, 0)
    return users


@pytest.fixture
def rival(database: str, users: list[UUID]) -> Iterator[Rival]:
    rival = Rival(database, users)
    with traffic(rival.run):
        yield rival


def use(harness: IngestHarness, user: UUID, **fields: Any) -> dict[str, Any]:
    return {"event_id": uuid4(), "occurred_at": NOW, "user_id": user, "agent_id": harness.agents[0], **fields}


def test_pair_that_comes_back_causes_no_deadlock(
    harness: IngestHarness, database: str, users: list[UUID], rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair is deleted before the batch locks its rows, and comes back after that."""
    low, _ = users
    lock_pairs = BatchTransaction.lock_pairs
    locked: list[int] = []

    def meanwhile(transaction: BatchTransaction, pairs: Any) -> int:
        if locked:
            return lock_pairs(transaction, pairs)
        run(database, "DELETE FROM public.user_agents WHERE user_id = %s", low)
        locked.append(rows := lock_pairs(transaction, pairs))
        track(database, low, harness.agents[0])
        rival.lock_until_it_waits()
        return rows

    monkeypatch.setattr(BatchTransaction, "lock_pairs", meanwhile)
    applier = harness.worker.flusher._applier
    applier._missing.trip()
    applier._rivals.trip()
    harness.publish(*(use(harness, user) for user in users))
    assert harness.flush() == Intake(2, 2, 0, 0)
    assert locked == [1]
    pairs = {(user, harness.agents[0]) for user in users}
    assert uses(database) == {pair: 3 if pair[0] == low else 2 for pair in pairs}


def test_partition_of_a_day_is_made_before_the_batch(
    harness: IngestHarness, database: str, users: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the batch's transaction, others that make one would wait for its end, also those for whose rows it waits."""
    when = NOW - timedelta(days=9)
    apply_staged = BatchTransaction.apply_staged
    found: list[Any] = []

    def meanwhile(transaction: BatchTransaction, ranges: Any) -> int:
        found.extend(run(database, "SELECT to_regclass(%s)::text", f"public.usage_events_{when:%Y%m%d}")[0])
        return apply_staged(transaction, ranges)

    monkeypatch.setattr(BatchTransaction, "apply_staged", meanwhile)
    harness.publish(use(harness, users[0], occurred_at=when))
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert found == [f"usage_events_{when:%Y%m%d}"]


def test_halves_of_a_batch_cause_no_deadlock(
    harness: IngestHarness, database: str, users: list[UUID], rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the events is not that of the pairs, and are counted in parts since PostgreSQL refuses one."""
    low, high = users
    install(harness, "P0001")
    apply_staged = BatchTransaction.apply_staged
    parts: list[int] = []

    def meanwhile(transaction: BatchTransaction, ranges: Any) -> int:
        parts.append(rows := apply_staged(transaction, ranges))
        if len(parts) == 1:
            rival.lock_until_it_waits()
        return rows

    monkeypatch.setattr(BatchTransaction, "apply_staged", meanwhile)
    register_entries = BatchTransaction.register_entries
    attempts: list[None] = []

    def noted(transaction: BatchTransaction, *arguments: Any) -> set[UUID]:
        attempts.append(None)
        return register_entries(transaction, *arguments)

    monkeypatch.setattr(BatchTransaction, "register_entries", noted)
    good = [use(harness, user, event_id=UUID(int=n)) for n, user in enumerate((high, high, low, low))]
    harness.publish(*good, use(harness, low, event_id=UUID(int=4), model=POISON))
    assert harness.flush() == Intake(5, 4, 0, 1)
    assert len(parts) > 1
    assert len(attempts) == 1, "the batch was the victim of a deadlock"
    counted = expected_uses(good)
    assert uses(database) == {pair: counted[pair] + 1 for pair in counted}


def test_batch_keeps_old_row_versions_for_one_range_only(
    harness: IngestHarness, database: str, users: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others replaced before a range of users began can be pruned during it: their next batch needs the space."""
    low, high = users
    apply_staged = BatchTransaction.apply_staged
    is_held = threading.Event()
    horizons: list[tuple[Any, ...]] = []

    def hold(_: threading.Event) -> None:
        with psycopg.connect(database) as holder:
            holder.execute(LOCK.encode(), [[high]])
            is_held.set()
            horizons.extend(eventually(lambda: run(database, HORIZON)))

    with psycopg.connect(database) as other:
        ended = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()

        def meanwhile(transaction: BatchTransaction, ranges: Iterable[tuple[str, str]]) -> int:
            def ended_between() -> Iterator[tuple[str, str]]:
                first, second = ranges
                yield first
                other.commit()
                yield second

            return apply_staged(transaction, ended_between())

        monkeypatch.setattr(BatchTransaction, "apply_staged", meanwhile)
        with traffic(hold):
            assert is_held.wait(30)
            harness.publish(use(harness, low), use(harness, high))
            assert harness.flush() == Intake(2, 2, 0, 0)
    assert ended
    assert horizons > [ended], "the second range has the snapshot of the first"
