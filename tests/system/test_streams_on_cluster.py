"""Streams on a Cluster of three nodes with a replica each: every event counted once, whatever moves meanwhile."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis.crc import key_slot

from tests.faults.harness import UNKNOWN_USER, Harness
from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.integration.test_redis_server import refusal
from tests.redis_nodes import HOST
from tests.redis_topologies import ClusterServers
from tests.system.test_broker_of_its_own import running
from usage_worker.errors import StreamUnavailableError
from usage_worker.http.receiver import Receiver
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.connection import RedisConnection
from usage_worker.settings import PublisherSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.redis_nodes import RedisNode

SHARDS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, database: str, cluster: ClusterServers) -> Iterator[Harness]:
    monkeypatch.setenv("USAGE_STREAM_SHARDS", str(SHARDS))
    with closing(Harness(database, cluster.url(), stream_shards=SHARDS)) as harness:
        yield harness


@pytest.fixture
def cli(tmp_path: Path, harness: Harness) -> Cli:
    servers = {"DATABASE_URL": harness.database, "REDIS_URL": harness.redis_url, "USAGE_STREAM_SHARDS": str(SHARDS)}
    return Cli(tmp_path, USAGE_RECLAIM_IDLE="0.5", **servers)


def said(cli: Cli, *arguments: str) -> Any:
    return json.loads(cli.run(*arguments, "--json").stdout)


def test_events_lie_on_all_nodes_and_commands_count_them(cluster: ClusterServers, harness: Harness, cli: Cli) -> None:
    harness.publish(harness.traffic(2_000))
    for primary in cluster.primaries:
        assert any(primary.connection.scan_iter("usage:events:*", 1000))
    status = said(cli, "status")
    assert sum(it["entries"] for it in status["backlog"].values()) > 0
    assert {name: status["checks"][name] for name in ("redis", "redis_nodes", "redis_memory")} == {
        "redis": "ok",
        "redis_nodes": "ok",
        "redis_memory": "ok",
    }
    # What another consumer holds that has died is reclaimed.
    stream = harness.resources.stream
    held = sum(len(stream.read(shard, "dead", 100)) for shard in range(SHARDS))
    assert held == harness.pending > 0
    drained = said(cli, "drain")
    assert sum(it["applied"] + it["quarantined"] + it["duplicate"] for it in drained) == 2_000
    harness.check()


def test_doctor_and_metrics_look_at_every_node(cluster: ClusterServers, cli: Cli) -> None:
    full, evicting, unsynced = cluster.primaries
    full.connection.config_set("maxmemory", "1")
    evicting.connection.config_set("maxmemory-policy", "allkeys-lru")
    unsynced.connection.config_set("appendfsync", "no")
    try:
        found = {check["check"]: check for check in said(cli, "doctor")["checks"]}
        problems = {check["check"]: check for check in said(cli, "status")["problems"]}
        metrics = cli.run("metrics").stdout
    finally:
        full.connection.config_set("maxmemory", "0")
        evicting.connection.config_set("maxmemory-policy", "noeviction")
        unsynced.connection.config_set("appendfsync", "everysec")
    for name, node in (("redis_memory", full), ("eviction", evicting)):
        assert found[name]["state"] == "fail"
        assert [it.address in problems[name]["reason"] for it in cluster.primaries].count(True) == 1
        assert node.address in problems[name]["reason"]
    assert found["append_fsync"]["state"] == "warn"
    assert f"{unsynced.address}: appendfsync no" in found["append_fsync"]["reason"]
    assert (found["redis_user"]["state"], found["redis_version"]["state"]) == ("ok", "ok")
    ratio = next(line for line in metrics.splitlines() if line.startswith("usage_redis_memory_ratio"))
    assert float(ratio.split()[1]) > 1


def test_dead_letters_are_replayed_to_their_node(harness: Harness, cli: Cli) -> None:
    for shard in range(SHARDS):
        event = {"event_id": str(uuid4()), "user_id": UNKNOWN_USER, "agent_id": UNKNOWN_USER}
        harness.xadd([event], shard)
    assert sum(it["quarantined"] for it in said(cli, "drain")) == SHARDS
    assert cli.run("dead-letters", "replay", "--all").returncode == 0
    assert sum(it["quarantined"] for it in said(cli, "drain")) == SHARDS


def test_slots_move_and_primaries_change_under_traffic(
    tmp_path: Path, cluster: ClusterServers, harness: Harness
) -> None:
    moved, promoted = harness.resources.stream.key(0), harness.resources.stream.key(1)
    with harness.workers(2):
        with harness.publishers(tmp_path, 2, 3_000):
            eventually(lambda: harness.has_counted(500), 30)
            source = cluster.primary_of(moved)
            target = next(it for it in cluster.primaries if it is not source)
            move_slot(cluster, moved, source, target)
            eventually(lambda: harness.has_counted(2_000), 30)
            before = cluster.primary_of(promoted)
            # It waits until the replica has all that its primary has.
            cluster.replica_of(before).ask("CLUSTER FAILOVER")
            cluster.await_promotion(promoted, before)
        eventually(harness.settled, 30)
    harness.check()
    assert harness.vanished == 0


def test_publisher_that_waits_for_replicas_follows_a_primary_that_became_one(
    cluster: ClusterServers, harness: Harness
) -> None:
    promoted = harness.resources.stream.key(1)
    settings = PublisherSettings(redis_url=harness.redis_url, redis_replicas=1, stream_shards=SHARDS)
    first, second = harness.traffic(200, seed=1), harness.traffic(200, seed=2)
    with UsagePublisher(settings=settings, linger=0) as publisher:
        for events in (first, second):
            harness.record(events)
            for event in events:
                publisher.add(dict(event))
            assert publisher.flush(30), publisher.stats()
            before = cluster.primary_of(promoted)
            cluster.replica_of(before).ask("CLUSTER FAILOVER")
            cluster.await_promotion(promoted, before)
    harness.drain()
    harness.check()


def test_shards_of_other_nodes_are_counted_while_one_is_down(
    tmp_path: Path, cluster: ClusterServers, harness: Harness, redis_url: str
) -> None:
    stream = harness.resources.stream
    lost = cluster.primary_of(stream.key(0))
    replica = cluster.replica_of(lost)
    for node in cluster.nodes:
        node.connection.config_set("cluster-require-full-coverage", "no")
    waiting = [shard for shard in range(SHARDS) if cluster.primary_of(stream.key(shard)) is lost]
    events = harness.traffic(800)
    held = sum(stream.shard_of(event["user_id"]) in waiting for event in events)
    with (
        running(harness, redis_url, tmp_path) as stack,
        UsagePublisher(cluster.url(), linger=0) as publisher,
        closing(Receiver(harness.resources.settings)) as receiver,
    ):
        replica.kill()
        lost.kill()
        for event in events:
            publisher.add(dict(event))
        harness.record(events)
        eventually(lambda: harness.has_counted(len(events) - held), 30)
        assert publisher.stats().buffered == held > 0
        assert receiver.is_ready()
        status = said(stack.cli, "status")
        assert status["checks"]["redis"] == "ok"
        reasons = {check["check"]: check["reason"] for check in status["problems"]}
        assert lost.address in reasons["redis_nodes"]
        assert f"shard {waiting[0]}: " in reasons["flush"]
        lost.restart()
        assert publisher.flush(30)
        eventually(harness.settled, 30)
    cluster.restart(replica)
    harness.check()


def test_node_under_a_url_of_another_kind_is_refused(cluster: ClusterServers) -> None:
    node = cluster.nodes[0].address
    assert "write redis+cluster:// in REDIS_URL" in refusal(f"redis://{node}")
    assert "it is not a Sentinel" in refusal(f"redis+sentinel://{node}")


def test_login_is_that_of_every_node(cluster: ClusterServers) -> None:
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "usage", "on", f">{SECRET}", "~*", "&*", "+@all")
    url = cluster.url().replace("//", f"//usage:{SECRET}@127.0.0.1:1,")  # nothing listens at the first seed
    with closing(RedisConnection(url)) as connection:
        for name in connection.servers():
            with connection.server(name) as client:
                assert client.ping()
    wrong = cluster.url().replace("//", f"//usage:{SECRET}x@")
    line = refusal(wrong, kind=StreamUnavailableError)
    assert line.endswith("correct the login in REDIS_URL, user:password@host")
    assert SECRET not in line


def move_slot(cluster: ClusterServers, key: str, source: RedisNode, target: RedisNode) -> None:
    """Move the slot of a key as `redis-cli --cluster reshard` does."""
    slot = key_slot(key.encode())
    source_id, target_id = source.ask("CLUSTER MYID"), target.ask("CLUSTER MYID")
    target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
    while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
        source.ask("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)
    for node in (target, source, *cluster.primaries):
        node.ask("CLUSTER SETSLOT", slot, "NODE", target_id)
