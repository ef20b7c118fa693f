"""Redis as it is met: what the server is, how REDIS_URL names it, and a shard whose last id lies in the future."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.preloaded import start_celery
from tests.servers import InstalledRedis
from usage_worker.errors import StreamUnavailableError, UnusableServerError
from usage_worker.local import EmbeddedValkey
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.entry import Pack
from usage_worker.queue.heartbeat import HEARTBEAT_KEY
from usage_worker.queue.last_id import LAST_ID
from usage_worker.queue.server import server_facts
from usage_worker.queue.stream import EventStream
from usage_worker.service.app import make_app
from usage_worker.settings import DEFAULT_MASTER, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import IngestHarness

KEY = "usage:events:{0}"
OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ADDER = "ACL SETUSER adder on >pw ~usage:* +xadd"
CELERY = [sys.executable, "-m", "celery", "-A", "usage_worker", "--quiet"]


def own_server(config: pytest.Config, folder: Path, **settings: str) -> EmbeddedValkey:
    program = config.getoption("--redis-server")
    return InstalledRedis(program, folder, settings) if program else EmbeddedValkey(folder, settings)


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, module_folder: Path) -> Iterator[EmbeddedValkey]:
    """Start a server whose settings the tests of this module change and restore."""
    with own_server(pytestconfig, module_folder / "met") as server:
        yield server


@pytest.fixture
def client(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url()) as client:
        yield client


@pytest.fixture(scope="module")
def cluster_url(pytestconfig: pytest.Config, module_folder: Path) -> Iterator[str]:
    with own_server(pytestconfig, module_folder / "node", **{"cluster-enabled": "yes"}) as node:
        yield node.url().partition("?")[0]


def execute(client: redis.Redis, command: str) -> Any:
    return client.execute_command(*shlex.split(command))  # type: ignore[no-untyped-call]


def concerns(url: str) -> list[tuple[str, str]]:
    with closing(RedisConnection(url)) as connection:
        return [(concern.name, concern.state) for concern in server_facts(connection).concerns]


def test_facts_of_good_server(server: EmbeddedValkey) -> None:
    with closing(RedisConnection(server.url())) as connection:
        facts = server_facts(connection)
    assert facts.refusal is None
    assert facts.concerns == []
    assert facts.product in ("Redis", "Valkey")
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts.version)
    assert (facts.policy, facts.append_only, facts.snapshots, facts.replica) == ("noeviction", True, False, False)
    assert facts.memory_used == 0


@pytest.mark.parametrize(
    ("product", "version", "refused"),
    [
        ("Redis", "6.2.14", True),
        ("Redis", "7.0.15", False),
        ("Redis", "10.0.0", False),
        ("Valkey", "8.1.0", False),
        ("Redis", "", False),
    ],
)
def test_old_version_is_refused_by_name(server: EmbeddedValkey, product: str, version: str, *, refused: bool) -> None:
    with closing(RedisConnection(server.url())) as connection:
        refusal = replace(server_facts(connection), product=product, version=version).refusal
    assert (refusal is not None) == refused
    assert not refusal or f"it is {product} {version}; Redis 7, Valkey 8 or newer" in refusal


@pytest.mark.parametrize(
    ("command", "undo", "expected"),
    [
        ("CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction", ("eviction", "fail")),
        ("CONFIG SET maxmemory-policy volatile-ttl", "CONFIG SET maxmemory-policy noeviction", ("eviction", "warn")),
        ("CONFIG SET appendonly no", "CONFIG SET appendonly yes", ("persistence", "warn")),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", ("replica", "fail")),
    ],
)
def test_threat_is_named_and_logged_once_by_publisher(
    server: EmbeddedValkey,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    command: str,
    undo: str,
    expected: tuple[str, str],
) -> None:
    execute(client, command)
    try:
        assert concerns(server.url()) == [expected]
        with UsagePublisher(server.url(), linger=0) as publisher:
            publisher.track(uuid4(), uuid4())
            eventually(lambda: publisher.stats().sent or publisher.stats().holding)
            execute(client, undo)
            publisher.track(uuid4(), uuid4())
            assert publisher.flush(30)
    finally:
        execute(client, undo)
    logged = [record.message for record in caplog.records if "holding" not in record.message]
    # What loses nothing by itself is for the workers' log.
    assert len(logged) == (expected[1] == "fail")
    assert all(re.search("; (set|name the primary)", line) for line in logged)


def test_saved_snapshots_are_persistence(server: EmbeddedValkey, client: redis.Redis) -> None:
    client.config_set("appendonly", "no")
    client.config_set("save", "60 1")
    try:
        assert concerns(server.url()) == []
    finally:
        client.config_set("appendonly", "yes")
        client.config_set("save", "")


def test_user_who_may_only_add_publishes(server: EmbeddedValkey, client: redis.Redis) -> None:
    execute(client, ADDER)
    url = server.url().replace("unix://", "unix://adder:pw@")
    with closing(EventStream(url, 1)) as stream:
        stream.append([(0, Pack.of_objects(uuid4(), [b"{}"]))])
        with pytest.raises(StreamUnavailableError, match=r"\+info"):
            server_facts(stream.connection)


@pytest.mark.parametrize("user", ["", "me:"])
def test_both_clients_read_the_same_url_of_a_socket(server: EmbeddedValkey, client: redis.Redis, user: str) -> None:
    secret = "p@ss/w?rd#"
    if user:
        execute(client, f"ACL SETUSER me on '>{secret}' ~* &* +@all")
    else:
        client.config_set("requirepass", secret)
    url = server.url(3).replace("unix://", f"unix://{user or ':'}p%40ss%2Fw%3Frd%23@")
    try:
        url += "&socket_timeout=3&health_check_interval=7&client_name=usage&decode_responses=true&protocol=3"
        with make_app(Settings(REDIS_URL=url)) as app, closing(EventStream(url, 2)) as stream:
            stream.append([(0, Pack.of_objects(uuid4(), [b"{}"]))])
            assert len(stream.read(0, "worker", 1)) == 1
            app.send_task("usage.flush", (0,))
            assert "usage" in {it["name"] for it in client.client_list()}
        with redis.Redis.from_url(server.url(3), password=secret, username=user.rstrip(":") or None) as database:
            assert {b"celery", KEY.encode()} <= set(database.keys())
            database.flushdb()
    finally:
        client.config_set("requirepass", "")


@pytest.mark.parametrize("query", ["ssl_min_version=5", "ssl_keyfile=/etc/passwd", "ssl_ca_certs=a%00b"])
def test_url_that_no_connection_takes_is_refused(query: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"rediss://:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/0?{query}"
        with closing(EventStream(url, 1)) as stream, pytest.raises(UnusableServerError, match="REDIS_URL") as refused:
            stream.backlog(0)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def refusal(
    redis_url: str, master: str = DEFAULT_MASTER, kind: type[StreamUnavailableError] = UnusableServerError
) -> str:
    """Return why the servers of a URL cannot be used."""
    with (
        closing(RedisConnection(redis_url, master=master)) as connection,
        pytest.raises(kind) as refused,
        connection.client(HEARTBEAT_KEY),
    ):
        pass
    return str(refused.value)


def test_publisher_holds_events_for_cluster(cluster_url: str) -> None:
    with UsagePublisher(cluster_url, linger=0) as publisher:
        publisher.track(uuid4(), uuid4())
        assert "Redis Cluster" in eventually(lambda: publisher.stats().holding)
        publisher.close(0)


def test_user_who_may_only_add_learns_of_cluster(cluster_url: str) -> None:
    with redis.Redis.from_url(cluster_url) as node:
        execute(node, ADDER)
    with (
        closing(EventStream(cluster_url.replace("unix://", "unix://adder:pw@"), 1)) as stream,
        pytest.raises(UnusableServerError, match="Redis Cluster"),
    ):
        stream.append([(0, Pack.of_objects(uuid4(), [b"{}"]))])


def test_worker_logs_threats_at_start(tmp_path: Path, server: EmbeddedValkey, client: redis.Redis) -> None:
    cli = Cli(tmp_path, DATABASE_URL="postgresql://127.0.0.1:1/nowhere", REDIS_URL=server.url())
    log = tmp_path / "log"
    client.config_set("appendonly", "no")
    client.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        with (
            log.open("wb") as output,
            start_celery(["--quiet", "worker", "--pool=solo"], tmp_path, cli.env, output.fileno()) as worker,
        ):
            try:
                eventually(lambda: "appendonly yes" in log.read_text("utf-8"), 30)
            finally:
                worker.kill()
        assert "maxmemory-policy is allkeys-lfu" in log.read_text("utf-8")
    finally:
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")


def test_processes_refuse_cluster_in_one_line(tmp_path: Path, cluster_url: str) -> None:
    cli = Cli(tmp_path, DATABASE_URL="postgresql://127.0.0.1:1/nowhere", REDIS_URL=cluster_url)
    with ThreadPoolExecutor() as pool:
        celery = [pool.submit(cli.run, name, program=CELERY) for name in ("worker", "beat")]
        for run in [*celery, pool.submit(cli.run, "up", "--flower-port", "0", "--data-dir", str(tmp_path))]:
            done = run.result()
            assert done.returncode == 1
            assert [line for line in done.stderr.splitlines() if "Redis" in line] == [
                "usage-worker: Redis cannot be used: it is a node of a Redis Cluster; "
                "write redis+cluster:// in REDIS_URL, and set USAGE_BROKER_URL for Celery"
            ]


def way_out() -> str:
    """Return the Redis command of the documented procedure."""
    section = OPERATIONS.split("\n### An id in the future\n")[1].split("\n## ")[0]
    (command,) = re.findall(r'^ {4}redis-cli -u "\$REDIS_URL" (.+)$', section, re.MULTILINE)
    return str(command)


@pytest.mark.parametrize("entry_id", ["253402300799000-0", "1795644342179221-0", LAST_ID])
def test_documented_way_out_of_future_id(harness: IngestHarness, entry_id: str) -> None:
    stream, event = harness.resources.stream, {"user_id": harness.users[0], "agent_id": harness.agents[0]}
    harness.xadd("[]", shard=0)
    assert not stream.last_id(0).in_future
    harness.redis.xadd(KEY, {"v": "1", "events": "[]"}, id=entry_id)
    last = stream.last_id(0)
    assert (last.entry_id, last.in_future, last.exhausted) == (entry_id, True, entry_id == LAST_ID)
    if last.exhausted:
        with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
            for _ in range(20):  # some of them for shard 0
                publisher.track(uuid4(), uuid4())
            assert "An id in the future" in eventually(lambda: publisher.stats().holding)
            publisher.close(0)
    assert execute(harness.redis, way_out()) is None  # two entries wait
    harness.flush()
    assert execute(harness.redis, way_out()) == 1
    harness.xadd(f'[{{"user_id": "{event["user_id"]}", "agent_id": "{event["agent_id"]}"}}]', shard=0)
    assert harness.flush().applied == 1
    assert not stream.last_id(0).in_future
    assert stream.vanished(0) == (0, None, 0)


def test_worker_that_waits_survives_deleted_stream(redis_url: str, redis_client: redis.Redis) -> None:
    with closing(EventStream(redis_url, 1)) as stream, ThreadPoolExecutor(1) as pool:
        assert stream.read(0, "worker", 1) == []
        waiting = pool.submit(stream.read, 0, "worker", 1, 4)
        eventually(lambda: any("b" in it["flags"] for it in redis_client.client_list()))
        redis_client.delete(KEY)
        assert waiting.result(3) == []
        stream.append([(0, Pack.of_objects(uuid4(), [b"{}"]))])
        assert len(stream.read(0, "worker", 1)) == 1


def test_last_id_of_missing_stream(redis_url: str) -> None:
    with closing(EventStream(redis_url, 1)) as stream:
        assert stream.last_id(0).entry_id == "0-0"
        assert not stream.last_id(0).in_future
