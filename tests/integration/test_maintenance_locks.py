"""Maintenance beside clients: no task waits long with rows locked, and a lost race leaves nothing half done."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run, traffic, with_option
from tests.integration.retired import track, uses
from tests.integration.test_purge import pairs, purge, seed
from tests.integration.test_reconcile import check, count_one_pair, damage, use
from usage_worker.errors import ConcurrencyError, LockHeldError
from usage_worker.maintenance.purge import CHUNK_ROWS, PURGE, run_purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.maintenance.retry import ATTEMPTS, retry
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.forget import erase
from usage_worker.store.forget_places import steps
from usage_worker.store.intake import Intake
from usage_worker.store.purge import purge_chunk
from usage_worker.store.queries import query
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import IngestHarness
    from usage_worker.maintenance.differences import ReconcileReport
    from usage_worker.maintenance.purge import PurgeReport
    from usage_worker.service.resources import Resources

WAITING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'usage-worker' AND wait_event_type = 'Lock'"

TIMES = "SELECT first_used_at, last_used_at FROM user_agents"
# Loses a race against nobody as soon as a time of use is to be set, once: a sequence is not rolled back.
LOSE_ONE_RACE = """
CREATE SEQUENCE races;
CREATE FUNCTION lose_one_race() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('races') = 1 THEN RAISE deadlock_detected; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER lose_one_race BEFORE UPDATE ON user_agents FOR EACH ROW
    WHEN (OLD.last_used_at IS NULL AND NEW.last_used_at IS NOT NULL) EXECUTE FUNCTION lose_one_race();
"""


def test_lost_row_is_reported_and_has_its_times_after_a_lost_race(harness: IngestHarness, database: str) -> None:
    count_one_pair(harness)
    times = run(database, TIMES)
    damage(harness, "SET session_replication_role = replica; DELETE FROM user_agents WHERE {pair}")
    expected = {(it.column, it.expected, it.found) for it in check(harness).differences}
    run(database, LOSE_ONE_RACE)
    report = check(harness, repair=True)
    assert run(database, TIMES) == times
    assert {(it.column, it.expected, it.found) for it in report.differences} == expected
    assert report.left == 0
    assert run(database, "SELECT last_value > 1 FROM races") == [(True,)]


@contextmanager
def holding(url: str, statement: str) -> Iterator[psycopg.Connection]:
    """Hold what a statement locks, in the transaction of an idle client; not for ever, so that a test fails instead."""
    with psycopg.connect(url) as client:
        client.execute("SET idle_in_transaction_session_timeout = '60s'")
        client.execute(statement.encode())
        yield client


def impatient(url: str, lock_timeout: str) -> str:
    """Return the URL for a session whose administrator has set a `lock_timeout`."""
    return with_option(url, f"lock_timeout={lock_timeout}")


def test_repair_that_waits_for_a_batch_lets_others_count(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str, ingest_url: str
) -> None:
    """A batch of another shard has locked a pair of the repair, which locks one of our shard before it."""
    shard_of, users = harness.resources.stream.shard_of, sorted(harness.users)
    ours = users[0]
    other = next(user for user in users if shard_of(user) != shard_of(ours))
    harness.publish(*(use(harness, 0, 1, user_id=user)[0] for user in (ours, other)))
    harness.flush()
    run(database, "UPDATE user_agents SET usage_count = 0")
    # It gives a pair up sooner than a batch by default, which a repair of more than two shards could outlast, too.
    worker = make_resources(DATABASE_URL=impatient(ingest_url, "1s"))
    reports: list[ReconcileReport] = []

    def repair(_: threading.Event) -> None:
        reports.append(check(harness, repair=True))

    with (
        holding(database, f"SELECT FROM user_agents WHERE user_id = '{other}' FOR NO KEY UPDATE") as batch,
        traffic(repair),
    ):
        eventually(lambda: run(database, WAITING))
        harness.publish(*use(harness, 0, 1, user_id=ours))
        assert worker.flusher.flush(shard_of(ours)).intake == Intake(1, 1, 0, 0)
        assert FlushRecords(worker.stream.connection).read(shard_of(ours))[0].holders is None
        assert not reports
        batch.rollback()
    assert {it.user_id for it in reports[0].differences} == {str(ours), str(other)}
    assert reports[0].left == 0
    harness.check()


def test_repair_that_never_gets_a_pair_names_the_holder(
    harness: IngestHarness, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[reconcile.__module__], "WAIT_TIMEOUT_SECONDS", 0.0)
    count_one_pair(harness)
    damage(harness, "UPDATE user_agents SET usage_count = 0")
    with (
        holding(database, "SELECT FROM user_agents FOR NO KEY UPDATE") as client,
        pytest.raises(LockHeldError, match=rf"held by pid {client.info.backend_pid} \("),
    ):
        check(harness, repair=True)
    assert check(harness, repair=True).left == 0


def test_purge_that_waits_for_a_client_lets_others_count(database: str, store: Store) -> None:
    """A client holds a share of the row that is due; somebody uses the same pair."""
    seed(database, 1)
    ((user_id, agent_id),) = pairs(database)
    run(database, "UPDATE user_agents SET is_shared = true, shared_with = ARRAY[gen_random_uuid()]")
    done: list[PurgeReport] = []

    def purge_patiently(_: threading.Event) -> None:
        done.append(purge(store, wait_timeout=30))

    with (
        holding(database, "SELECT FROM user_agent_shares FOR UPDATE") as client,
        traffic(purge_patiently),
    ):
        eventually(lambda: run(database, WAITING))
        track(impatient(database, "5s"), user_id, agent_id)
        client.rollback()
    # A row that was changed meanwhile is left to the next run.
    assert [(report.purged, report.remaining) for report in done] == [(0, 1)]
    assert purge(store).purged == 1
    assert uses(database) == {(user_id, agent_id): 1}


def test_purge_that_never_gets_its_locks_names_the_holder_and_leaves_the_rows(database: str, store: Store) -> None:
    seed(database, 2)
    with holding(database, "LOCK TABLE user_agent_conversations") as client:
        held = rf"held by pid {client.info.backend_pid} \(.*idle in transaction.*pg_terminate_backend"
        with Store(impatient(database, "50ms")) as hasty, pytest.raises(LockHeldError, match=held) as refused:
            run_purge(hasty, Settings())
    assert "\n" not in str(refused.value)
    assert len(pairs(database)) == 2
    assert purge(store).purged == 2


def test_purge_goes_on_after_a_chunk_that_is_held(database: str, store: Store) -> None:
    """A client holds a share of a row in the first of two chunks."""
    seed(database, CHUNK_ROWS + 1)
    share = "SET is_shared = true, shared_with = ARRAY[gen_random_uuid()]"
    run(database, f"UPDATE user_agents {share} WHERE id = (SELECT id FROM user_agents ORDER BY id LIMIT 1)")
    run(database, "UPDATE user_agents SET notes = 'stored behind it' WHERE NOT is_shared")
    with holding(database, "SELECT FROM user_agent_shares FOR UPDATE"), pytest.raises(LockHeldError):
        run_purge(store, Settings())
    assert len(pairs(database)) == CHUNK_ROWS
    # Not recorded as done, so that the check of periodic tasks tells if it happens again and again.
    assert PURGE not in last_runs(store)
    assert purge(store).purged == CHUNK_ROWS


def test_purge_repeats_lost_races_after_a_chunk_that_is_held(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(database, 2 * CHUNK_ROWS)
    outcomes: list[Exception] = [*[LockHeldError("held")] * ATTEMPTS, ConcurrencyError("lost")]

    def chunk(*arguments: Any) -> int:
        if outcomes:
            raise outcomes.pop(0)
        return purge_chunk(*arguments)

    monkeypatch.setitem(run_purge.__globals__, "purge_chunk", chunk)
    assert purge(store).purged == 2 * CHUNK_ROWS


@pytest.mark.parametrize(("administrator", "limit"), [("0", "200ms"), ("2min", "200ms"), ("50ms", "50ms")])
def test_purge_keeps_a_lower_limit_of_the_administrator(database: str, administrator: str, limit: str) -> None:
    with psycopg.connect(impatient(database, administrator)) as connection:
        connection.execute(query("short_lock_timeout"))
        assert connection.execute("SHOW lock_timeout").fetchone() == (limit,)


def test_erasure_of_a_receiver_locks_rows_of_owners_in_key_order(database: str, store: Store) -> None:
    """The rows lie in the table against their order; a client that has locked the first one goes on to the second."""
    seed(database, 2)
    (low, _), (high, _) = pairs(database)
    gone = uuid4()
    for owner in high, low:
        run(database, "UPDATE user_agents SET shared_with = ARRAY[%s::uuid] WHERE user_id = %s", gone, owner)
    (place,) = (place for place in steps(store) if place.column == "shared_with")

    def erase_patiently(_: threading.Event) -> None:
        retry(partial(erase, store, place, gone), 30)

    lock = "SELECT user_id FROM user_agents WHERE user_id = %s FOR NO KEY UPDATE NOWAIT"
    with (
        holding(database, f"SELECT FROM user_agents WHERE user_id = '{low}' FOR NO KEY UPDATE") as client,
        traffic(erase_patiently),
    ):
        eventually(lambda: run(database, WAITING))
        found = client.execute(lock, [high]).fetchall()
        client.rollback()
    assert found == [(high,)]
    assert run(database, "SELECT DISTINCT shared_with FROM user_agents") == [([],)]
