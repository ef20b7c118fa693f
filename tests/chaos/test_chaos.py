"""Random kills of everything, with hostile entries among the good; exact afterwards. USAGE_CHAOS_SEED repeats a run."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
import redis

from tests.chaos.comparison import Comparison
from tests.chaos.faults import SHARDS, Chaos
from tests.chaos.fleet import Fleet
from tests.chaos.journal import Owed
from tests.chaos.topology import Plain
from tests.helpers import eventually
from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.monitoring.status import collect_status
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from usage_worker.store import Store

SECONDS = float(os.environ.get("USAGE_CHAOS_SECONDS", "8"))
SEEDS = [int(it) for it in os.environ.get("USAGE_CHAOS_SEED", str(time.time_ns() % 1_000_000)).split(",")]
EVENTS_PER_SECOND = 300.0
# A Celery message that a killed worker held is delivered again after 40 s.
DRAIN_SECONDS = 180.0
GREEN_SECONDS = 90.0


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(server_folder: Path, tmp_path: Path, seed: int) -> None:
    print(f"\nchaos for {SECONDS:.0f} s with USAGE_CHAOS_SEED={seed}; logs in {tmp_path}", flush=True)  # noqa: T201
    random = Random(seed)
    with Plain(server_folder / f"chaos-{seed}", random) as topology:
        settings = Settings(
            DATABASE_URL=topology.database_url, REDIS_URL=topology.redis_url, reclaim_idle=2, flush_interval=1
        )
        fleet = Fleet(tmp_path, topology, random, EVENTS_PER_SECOND)
        chaos = Chaos(fleet, topology, random)
        with closing(Resources(settings)) as resources:
            population = Population.of(USERS, AGENTS)
            resources.store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        try:
            chaos.run(SECONDS)
            chaos.end()
            found = settle_and_compare(chaos, fleet, topology, settings)
        except BaseException:
            report(chaos, [])
            raise
        finally:
            fleet.kill()
    report(chaos, found)
    assert found == []


def settle_and_compare(chaos: Chaos, fleet: Fleet, topology: Plain, settings: Settings) -> list[str]:
    """Let everything be counted, and return what is wrong then."""
    fleet.tend()
    fleet.end_producers()
    chaos.note("all producers ended")
    owed = Owed()
    for journal in filter(Path.exists, fleet.journals):
        owed.read(journal)
    with closing(Resources(settings)) as resources:
        waiting = eventually(lambda: is_drained(fleet, topology, resources.store), DRAIN_SECONDS)
        chaos.note(f"drained: {waiting}")
        problems = eventually(lambda: is_green(fleet, settings), GREEN_SECONDS)
        chaos.note(f"green: {problems}")
        fleet.end()
        assert resources.store.rows  # its connection outlives the workers
        found = Comparison(resources.store, settings, owed).run()
        vanished = [resources.stream.vanished(shard).entries for shard in range(SHARDS)]
    if any(vanished):
        found.append(f"entries vanished: {vanished}")
    found += [f"process {pid} is left" for pid in fleet.pids()]
    chaos.note(f"{owed.least:,} to {owed.most:,} events, {len(owed.letters):,} dead letters")
    return found + fleet.unexplained


def is_drained(fleet: Fleet, topology: Plain, store: Store) -> str:
    """Return a text when no event waits in a stream or in a message of Celery, otherwise an empty one."""
    fleet.tend()
    client = topology.client
    for shard in range(SHARDS):
        key = f"usage:events:{{{shard}}}"
        if client.xlen(key) or any(group["pending"] for group in groups(client, key)):
            return ""
    messages = [*client.lrange("celery", 0, -1), *client.hvals("unacked")]  # type: ignore[misc]
    if any(b"usage.track" in message for message in messages):
        return ""
    return f"{store.intake_totals()}"


def groups(client: redis.Redis, key: str) -> list[dict[str, int]]:
    try:
        return client.xinfo_groups(key)  # type: ignore[return-value]
    except redis.ResponseError:
        return []


def is_green(fleet: Fleet, settings: Settings) -> str:
    fleet.tend()
    status = collect_status(settings)
    return "" if status.problems else "no problem"


def report(chaos: Chaos, found: list[str]) -> None:
    print("\n".join([*chaos.log, *found[:50], f"{len(found)} differences"]))  # noqa: T201
    sys.stdout.flush()
