"""A primary dies or hangs under load: nothing is lost where a replica must have it; otherwise the loss is seen."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.redis_topologies import ClusterServers, SentinelServers
from usage_worker.errors import StoreUnavailableError, StreamUnavailableError
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.flush_record import FlushRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.harness import Event
    from tests.redis_nodes import RedisNode

KEY = "usage:events:{0}"
# A worker and beat take seconds to start, on a busy machine a minute.
PATIENCE = 90


class Failover:
    """Servers of either kind, of which the primary with shard 0 fails."""

    def __init__(self, servers: SentinelServers | ClusterServers) -> None:
        self.servers = servers

    @property
    def pair(self) -> tuple[RedisNode, RedisNode]:
        """The primary with shard 0, and its replica."""
        if isinstance(self.servers, SentinelServers):
            return self.servers.primary, self.servers.replica
        primary = self.servers.primary_of(KEY)
        return primary, self.servers.replica_of(primary)

    def end(self, primary: RedisNode) -> None:
        """Kill a primary under Sentinels; one of a Cluster hangs, and takes connections meanwhile."""
        if isinstance(self.servers, SentinelServers):
            primary.kill()
        else:
            primary.pause()

    def bring_back(self, dead: RedisNode) -> None:
        """Let a former primary become a replica."""
        if isinstance(self.servers, SentinelServers):
            self.servers.restart(dead)
        else:
            dead.resume()
            eventually(lambda: not dead.is_primary, PATIENCE)

    def await_promotion(self, dead: RedisNode) -> RedisNode:
        if isinstance(self.servers, SentinelServers):
            return self.servers.await_promotion(dead)
        return self.servers.await_promotion(KEY, dead)


# A Sentinel promotes no replica that was without its primary for ten times as long.
KINDS: dict[str, Callable[[], SentinelServers | ClusterServers]] = {
    "sentinel": partial(SentinelServers, 2.0),
    "cluster": partial(ClusterServers, 1.0),
}


@pytest.fixture(params=KINDS)
def failover(request: pytest.FixtureRequest) -> Iterator[Failover]:
    with KINDS[request.param]() as servers:
        yield Failover(servers)


@pytest.fixture
def harness(database: str, redis_url: str, failover: Failover) -> Iterator[Harness]:
    """Return a harness on these servers; the messages of Celery go there, too, unless it is a Cluster."""
    with closing(Harness(database, failover.servers.url())) as harness:
        if isinstance(failover.servers, ClusterServers):
            harness.env["USAGE_BROKER_URL"] = redis_url
        yield harness


@contextmanager
def celery(harness: Harness, folder: Path) -> Iterator[None]:
    """Run a worker, with a single process, and beat."""
    commands = [["worker", "--concurrency=1"], ["beat", "--pidfile=", f"--schedule={folder / 'beat'}"]]
    processes = [harness.command("celery", "-A", "usage_worker", *command) for command in commands]
    try:
        yield
        assert [process.poll() for process in processes] == [None, None]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def all_counted(harness: Harness) -> bool:
    return harness.intake.applied >= harness.oracle.distinct


def test_nothing_is_lost_where_a_replica_must_have_it(harness: Harness, failover: Failover, tmp_path: Path) -> None:
    harness.env["USAGE_REDIS_REPLICAS"] = "1"
    with celery(harness, tmp_path):
        harness.publish(harness.traffic(50))
        eventually(lambda: all_counted(harness), PATIENCE)
        with harness.publishers(tmp_path, 2, 4_000):
            dead, _ = failover.pair
            eventually(lambda: harness.has_counted(500), PATIENCE)
            failover.end(dead)
            failover.await_promotion(dead)
            failover.bring_back(dead)  # the promoted one needs a replica, too
        eventually(lambda: all_counted(harness), PATIENCE)
    harness.check_totals()
    assert harness.vanished == 0


# The look that sees a loss is the same through Sentinel, where the test takes twice as long.
@pytest.mark.parametrize("failover", ["cluster"], indirect=True)
def test_lost_events_are_seen_and_all_others_counted(harness: Harness, failover: Failover, tmp_path: Path) -> None:
    with celery(harness, tmp_path):
        harness.publish(harness.traffic(500, seed=1))
        eventually(lambda: all_counted(harness), PATIENCE)
        dead, replica = failover.pair
        with database_closed(harness):
            replica.pause()
            dead.ask("CLIENT", "KILL", "TYPE", "replica")
            lost = [
                event
                for event in harness.traffic(300, seed=2)
                if harness.resources.stream.shard_of(event["user_id"]) == 0
            ]
            send(harness, lost)
            entries = dead.connection.xlen(KEY)
            assert entries > 0
            with pytest.raises(StoreUnavailableError):
                harness.resources.flusher.flush(0)  # a worker's, which sees what it cannot count
            dead.kill()
            replica.resume()
            assert failover.await_promotion(dead) is replica
        eventually(lambda: has_flushed(harness), PATIENCE)
        harness.publish(harness.traffic(500, seed=3))
        eventually(lambda: all_counted(harness), PATIENCE)
    harness.check_totals()
    assert harness.vanished == entries
    reason = f"{entries:,} of them were lost in a failover or a restart of Redis"
    assert reason in status(harness)["vanished_entries"]


@contextmanager
def database_closed(harness: Harness) -> Iterator[None]:
    """Let nobody into the database, after each shard has had a flush that failed; the streams fill meanwhile."""
    database = str(psycopg.conninfo.conninfo_to_dict(harness.database)["dbname"])
    server = psycopg.conninfo.make_conninfo(harness.database, dbname="postgres")
    name = psycopg.sql.Identifier(database)
    records = FlushRecords(harness.resources.stream.connection)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
        try:
            eventually(lambda: all(records.read(shard)[0].failed_seconds is not None for shard in range(2)), PATIENCE)
            yield
        finally:
            connection.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def has_flushed(harness: Harness) -> bool:
    """Flush shard 0 as a worker does, which tries again where the new primary is not known yet."""
    try:
        harness.resources.flusher.flush(0)
    except StreamUnavailableError:
        return False
    return True


def send(harness: Harness, events: list[Event]) -> None:
    """Send events that the oracle does not know, each in an entry of its own."""
    with UsagePublisher(harness.redis_url, linger=0, pack_events=1) as publisher:
        for event in events:
            assert publisher.add(dict(event))
        assert publisher.flush(60)


def status(harness: Harness) -> dict[str, str]:
    """Return the reasons of the checks that do not pass."""
    process = harness.command("usage_worker", "status", "--json", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    return {check["check"]: check["reason"] for check in json.loads(output)["problems"]}
