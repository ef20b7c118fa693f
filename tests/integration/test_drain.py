"""`usage-worker drain` drains every shard that can be, and says of each other one why entries are left in it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from usage_worker.ingest.drain import Drainer
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Return a command that reclaims entries soon, so that it does not wait for held ones for long."""
    cli.env["USAGE_RECLAIM_IDLE"] = "0.3"
    return cli


def user_of(harness: IngestHarness, shard: int) -> UUID:
    return next(user for user in harness.users if harness.resources.stream.shard_of(user) == shard)


def add(harness: IngestHarness, *shards: int) -> None:
    """Add an event of a user of each shard."""
    for shard in shards:
        event = {"user_id": str(user_of(harness, shard)), "agent_id": str(harness.agents[0])}
        harness.xadd(json.dumps([event]), shard=shard)


@contextmanager
def holding(database: str, statement: str, *parameters: object) -> Iterator[int]:
    """Keep a transaction open that has executed the statement; yield the pid of its session."""
    with psycopg.connect(database) as holder:
        holder.execute(statement.encode(), parameters or None)
        yield holder.info.backend_pid
        holder.rollback()


def problems(cli: Cli) -> list[str]:
    """Run a drain that must fail, and return what it says about shards in which entries are left."""
    done = cli.run("drain")
    assert done.returncode == 1, done
    return [line.removeprefix("usage-worker: ") for line in done.stderr.splitlines() if "usage-worker: " in line]


def test_key_of_another_type_leaves_the_other_shards_drained(harness: IngestHarness, cli: Cli) -> None:
    harness.redis.set("usage:events:{0}", "x")
    add(harness, 1)
    (problem,) = problems(cli)
    assert problem.startswith("shard 0: ")
    assert "usage:events:{0}" in problem
    assert "rename or delete the key" in problem
    assert harness.resources.stream.backlog(1).entries == 0
    assert harness.resources.store.intake_totals().applied == 1
    done = cli.run("drain", "--json")
    assert done.returncode == 1
    first, second = json.loads(done.stdout)
    assert (first["shard"], first["left"], second["left"], second["problem"]) == (0, None, 0, None)
    assert first["problem"] in problem
    harness.redis.delete("usage:events:{0}")
    add(harness, 0)
    assert cli.drained() == {"applied": 1, "duplicate": 0, "quarantined": 0, "left": 0}


def test_flushes_that_fail_are_named_shard_by_shard(harness: IngestHarness, cli: Cli, database: str) -> None:
    add(harness, 0, 1)
    with holding(database, "LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE") as pid:
        found = problems(cli)
    assert [problem.partition(":")[0] for problem in found] == ["shard 0", "shard 1"]
    assert all("1 entry left: " in it and f"held by pid {pid} " in it for it in found), found
    assert cli.drained()["applied"] == 2


def test_held_rows_are_named_with_their_holder(harness: IngestHarness, cli: Cli, database: str) -> None:
    add(harness, 0, 1)
    assert cli.drained()["applied"] == 2
    add(harness, 0, 1)
    with holding(database, "SELECT FROM user_agents WHERE user_id = %s FOR UPDATE", user_of(harness, 0)) as pid:
        (problem,) = problems(cli)
    assert problem.startswith("shard 0: ")
    assert f"1 entry left: waiting for locks, held by pid {pid} " in problem
    assert harness.resources.store.intake_totals().applied == 3
    assert cli.drained()["applied"] == 1


def test_entry_for_newer_workers_is_named(harness: IngestHarness, cli: Cli) -> None:
    add(harness, 0, 1)
    entry_id = harness.xadd("[]", version="9")
    (problem,) = problems(cli)
    assert problem.startswith("shard 0: 1 applied, ")
    assert f"entry {entry_id} has version 9" in problem
    assert harness.resources.store.intake_totals().applied == 2


def test_entries_that_another_worker_has_are_named(harness: IngestHarness, cli: Cli) -> None:
    cli.env["USAGE_RECLAIM_IDLE"] = "5"
    add(harness, 0, 1)
    (entry,) = harness.resources.stream.read(1, "another", 10)
    # As one does that renews what it counts.
    claim = partial(harness.redis.xclaim, "usage:events:{1}", GROUP, "another", 0, [entry.entry_id], justid=True)
    with repeated(claim):
        (problem,) = problems(cli)
    assert problem.startswith("shard 1: 0 applied, ")
    assert "1 entry left: read by another worker" in problem
    assert harness.resources.store.intake_totals().applied == 1
    assert cli.drained()["applied"] == 1


def test_entries_that_arrive_meanwhile_are_no_problem(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Where they arrive all the time, so that the stream is never empty, it ends nevertheless."""
    add(harness, 0)
    worker = make_resources(flush_budget=0.3)
    drainer, left = Drainer(worker.stream, worker.flusher, worker.settings.reclaim_idle), 0

    def drained() -> bool:
        nonlocal left
        report = drainer.drain(0)
        assert report.problem is None
        left += report.left or 0
        return left > 0

    with repeated(lambda: add(harness, 0)):
        eventually(drained, 30)


def test_entry_for_newer_workers_does_not_hold_up_a_busy_shard(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Entries that arrive all the time are no reason to wait for an hour for one that this worker cannot read."""
    entry_id = harness.xadd("[]", version="9")
    worker = make_resources(flush_budget=0.3)
    with repeated(lambda: add(harness, 0)):
        report = Drainer(worker.stream, worker.flusher, reclaim_idle=1.0).drain(0)
    assert f"entry {entry_id} has version 9" in (report.problem or "")


def test_ids_in_the_future_are_no_problem(harness: IngestHarness, make_resources: Callable[..., Resources]) -> None:
    """Each later entry has the time of such an id, whatever its own is."""
    harness.redis.xadd("usage:events:{0}", {"v": "1", "n": "0", "events": "[]"}, id="99999999999999-0")
    worker = make_resources(flush_budget=0.3)
    drainer = Drainer(worker.stream, worker.flusher, worker.settings.reclaim_idle)
    with repeated(lambda: add(harness, 0)):
        assert drainer.drain(0).problem is None


@contextmanager
def repeated(act: Callable[[], object]) -> Iterator[None]:
    """Call a function again and again until the end of the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(0.002):
            act()

    with ThreadPoolExecutor() as pool:
        done = pool.submit(repeat)
        try:
            yield
        finally:
            ended.set()
        done.result()
