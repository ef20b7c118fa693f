"""Random kills of everything, with hostile entries among the good; exact afterwards. USAGE_CHAOS_SEED repeats a run."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.chaos.administrator import Administrator
from tests.chaos.comparison import Comparison
from tests.chaos.faults import Chaos
from tests.chaos.fleet import Fleet
from tests.chaos.journal import Owed
from tests.chaos.streams import MOST_SHARDS
from tests.chaos.topology import Topology
from tests.erasure import FORGET_KEY
from tests.helpers import eventually
from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.monitoring.status import collect_status
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

SECONDS = float(os.environ.get("USAGE_CHAOS_SECONDS", "12"))
SEEDS = [int(it) for it in os.environ.get("USAGE_CHAOS_SEED", "1").split(",")]
EVENTS_PER_SECOND = 300.0
START_SECONDS = 60.0
# A Celery message that a killed worker held is delivered again after 40 s; the backlog of a long run is larger.
DRAIN_SECONDS = 180.0 + SECONDS / 8
GREEN_SECONDS = 180.0


@pytest.mark.timeout(START_SECONDS + SECONDS + DRAIN_SECONDS + GREEN_SECONDS + 300)
@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(server_folder: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    with Topology(server_folder / f"chaos-{seed}", seed, random) as topology:
        say(f"\nchaos for {SECONDS:.0f} s with USAGE_CHAOS_SEED={seed}: {topology.name}; logs in {tmp_path}")
        fleet = Fleet(tmp_path, topology, random, EVENTS_PER_SECOND)
        administrator = Administrator(fleet, topology, random)
        chaos = Chaos(fleet, topology, administrator, random)
        with closing(Resources(settings_of(topology, fleet.shards))) as resources:
            population = Population.of(USERS, AGENTS)
            resources.store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        try:
            fleet.tend()
            eventually(fleet.sends, START_SECONDS)
            chaos.run(SECONDS)
            chaos.end()
            found = settle_and_compare(chaos, fleet, topology)
        except BaseException:
            report(chaos, [])
            raise
        finally:
            fleet.kill()
    report(chaos, found)
    assert found == []


def settings_of(topology: Topology, shards: int) -> Settings:
    """Return the settings of this process, which the faults of the network do not meet."""
    given = topology.streams.settings()
    return Settings(
        DATABASE_URL=topology.database.direct_url,
        REDIS_URL=given["REDIS_URL"],
        broker_url=given.get("USAGE_BROKER_URL", ""),
        stream_shards=shards,
        forget_key=FORGET_KEY,
        reclaim_idle=2,
        flush_interval=1,
    )


def settle_and_compare(chaos: Chaos, fleet: Fleet, topology: Topology) -> list[str]:
    """Let everything be counted, and return what is wrong then."""
    fleet.tend()
    fleet.end_producers()
    chaos.note("all producers ended")
    owed = Owed()
    for journal in filter(Path.exists, fleet.journals):
        owed.read(journal)
    administrator = chaos.administrator
    failed = administrator.finish()
    chaos.note(f"{len(administrator.erasures)} users erased, {len(administrator.corrections)} events corrected")
    settings = settings_of(topology, fleet.shards)
    with closing(Resources(settings)) as resources:
        waiting = eventually(lambda: is_drained(fleet, topology, resources.store), DRAIN_SECONDS)
        chaos.note(f"drained: {waiting}")
        await_green(chaos, fleet, settings, {"vanished_entries"} if topology.streams.may_vanish else set())
        fleet.end()
        chaos.note("all processes ended")
        found = Comparison(resources.store, settings, owed, administrator).run()
        vanished = [resources.stream.vanished(shard).entries for shard in range(MOST_SHARDS)]
    chaos.note(f"vanished: {vanished}")
    if any(vanished) and not topology.streams.may_vanish:
        found.append(f"entries vanished: {vanished}")
    found += [f"process {pid} is left" for pid in fleet.pids()]
    chaos.note(f"{owed.least:,} to {owed.most:,} events, {len(owed.letters):,} dead letters")
    if not owed.least:
        found.append("nothing has arrived")
    # An erasure that failed explains what differs.
    return failed + fleet.unexplained + found


def is_drained(fleet: Fleet, topology: Topology, store: Store) -> str:
    """Return a text when no event waits in a stream or in a message of Celery, otherwise an empty one."""
    fleet.tend()
    for shard in range(MOST_SHARDS):
        key = f"usage:events:{{{shard}}}"
        client = topology.streams.client(key)
        if client.xlen(key) or any(group["pending"] for group in groups(client, key)):
            return ""
    broker: Any = topology.streams.broker
    messages = [*broker.lrange("celery", 0, -1), *broker.hvals("unacked")]
    if any(b"usage.track" in message for message in messages):
        return ""
    return f"{store.intake_totals()}"


def groups(client: redis.Redis, key: str) -> list[dict[str, Any]]:
    try:
        found: Any = client.xinfo_groups(key)
    except redis.ResponseError:  # there was never an entry
        return []
    return list(found)


def await_green(chaos: Chaos, fleet: Fleet, settings: Settings, allowed: set[str]) -> None:
    """Wait until `status` has no problem but those allowed."""
    problems: dict[str, str] = {}

    def is_green() -> bool:
        nonlocal problems
        fleet.tend()
        problems = {problem.name: problem.reason for problem in collect_status(settings).problems}
        return problems.keys() <= allowed

    try:
        eventually(is_green, GREEN_SECONDS)
    finally:
        chaos.note(f"problems: {problems}")


def report(chaos: Chaos, found: list[str]) -> None:
    say(*chaos.log, *found[:50], f"{len(found)} differences")


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
