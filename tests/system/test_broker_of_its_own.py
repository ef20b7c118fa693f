"""Celery's messages on a server of their own, which fails, or is promoted, while the streams go on; and the reverse."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from tests.faults.harness import Event, Harness
from tests.helpers import eventually, fetched
from tests.integration.commands import Cli
from tests.redis_nodes import RedisNode
from tests.redis_topologies import SentinelServers
from tests.system.rabbitmq import RabbitMQ
from usage_worker.local.account import temporary_folder
from usage_worker.local.supervisor import LOCALHOST, Supervisor
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS
from usage_worker.service.broker import broker_of
from usage_worker.service.queues import QueueName
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Celery tries to connect again after 2, 4, 6 … s, and what a worker had taken is delivered again after 30 to 40 s.
RECOVERED_SECONDS = 90
SECRET = "s3cretword"


class Stack:
    """A worker that counts, one that maintains, and beat, with a broker that is not the Redis of the streams."""

    def __init__(self, harness: Harness, broker_url: str, supervisor: Supervisor, folder: Path) -> None:
        self.harness, self.broker_url, self.supervisor = harness, broker_url, supervisor
        urls = {"DATABASE_URL": harness.database, "REDIS_URL": harness.redis_url, "USAGE_BROKER_URL": broker_url}
        self.cli = Cli(folder, **urls)

    @contextmanager
    def application(self) -> Iterator[Celery]:
        """Yield the Celery app of an application that sends us messages, by Celery's own transports."""
        with closing(Celery()) as app:
            app.conf.update(broker_of(Settings(broker_url=self.broker_url)))
            if self.broker_url.startswith("amqp"):  # it answers before a message is on disk
                app.conf.broker_transport_options = {"confirm_publish": True}
            yield app

    def track(self, events: list[Event]) -> None:
        with self.application() as app:
            for event in events:
                app.send_task("usage.track", kwargs=event)
        self.harness.record(events)

    def maintain(self) -> None:
        """Send a periodic task, as beat does, and wait until a run of it has ended."""
        query = f"SELECT max(finished_at) AS at FROM usage_task_runs WHERE task = '{MANAGE_PARTITIONS}'"
        before = self.harness.fetch(query)
        with self.application() as app:
            app.send_task(MANAGE_PARTITIONS, queue=QueueName.MAINTENANCE)
        eventually(lambda: self.harness.fetch(query) != before, RECOVERED_SECONDS)

    def problems(self) -> dict[str, dict[str, str]]:
        """Return the failing checks of `usage-worker status`."""
        done = self.cli.run("status", "--json")
        document = json.loads(done.stdout)
        assert done.returncode == (0 if document["healthy"] else 1)
        return {it["check"]: it for it in document["problems"] if it["state"] == "fail"}

    def await_counted(self) -> None:
        eventually(lambda: self.harness.has_counted(self.harness.sent), RECOVERED_SECONDS)

    def logged(self, folder: Path) -> str:
        return "".join(path.read_text() for path in folder.glob("*.log"))


@contextmanager
def running(
    harness: Harness, broker_url: str, folder: Path, flower_port: int | None = None, **variables: str
) -> Iterator[Stack]:
    given = {**harness.env, "USAGE_LOG_LEVEL": "info", **variables}
    with Supervisor(
        harness.database,
        harness.redis_url,
        broker_url=broker_url,
        concurrency=2,
        flower_port=flower_port,
        log_dir=folder,
        variables=given,
    ) as supervisor:
        supervisor.wait_ready(180)
        pids = supervisor.pids
        yield Stack(harness, broker_url, supervisor, folder)
        supervisor.poll()
        assert supervisor.pids == pids, "a process ended"


@pytest.fixture
def nodes() -> Iterator[tuple[RedisNode, RedisNode]]:
    """Yield a server for the streams and one for the messages, whose user has a password."""
    with temporary_folder() as folder:
        streams = RedisNode(folder / "streams")
        broker = RedisNode(folder / "broker", {"appendfsync": "always"})
        with streams, broker:
            broker.ask("ACL", "SETUSER", "celery", "on", f">{SECRET}", "~*", "&*", "+@all")
            yield streams, broker


def test_each_server_fails_alone(database: str, nodes: tuple[RedisNode, RedisNode], tmp_path: Path) -> None:
    streams, broker = nodes
    login = f"redis://celery:{SECRET}@{broker.address}/0"
    with closing(Harness(database, streams.tcp_url())) as harness, running(harness, login, tmp_path) as stack:
        harness.publish(harness.traffic(200, seed=1))
        stack.await_counted()

        broker.kill()
        harness.publish(harness.traffic(200, seed=2))
        problem = stack.problems()["broker"]
        assert "Connection refused" in problem["reason"]
        assert "USAGE_BROKER_URL" in problem["remedy"]
        assert stack.cli.drained()["left"] == 0
        assert harness.has_counted(harness.sent)
        harness.publish(harness.traffic(200, seed=3))
        broker.restart()
        broker.ask("ACL", "SETUSER", "celery", "on", f">{SECRET}", "~*", "&*", "+@all")
        stack.await_counted()

        streams.kill()
        stack.track(harness.traffic(20, seed=4))
        stack.maintain()
        assert "REDIS_URL" in stack.problems()["redis"]["remedy"]
        assert "broker" not in stack.problems()
        streams.restart()
        stack.await_counted()
        harness.check()
    logged = stack.logged(tmp_path)
    assert "Redis is not available" in logged
    assert "Traceback" not in logged
    assert SECRET not in logged


def test_messages_survive_failover_of_the_broker(database: str, redis_url: str, tmp_path: Path) -> None:
    """Those that the replica had: replication is asynchronous. A primary that hangs refuses no connection."""
    with (
        SentinelServers() as servers,
        closing(Harness(database, redis_url)) as harness,
        running(harness, servers.url(), tmp_path) as stack,
    ):
        events = harness.traffic(60, seed=7)
        with stack.application() as app:
            for event in events[:40]:
                app.send_task("usage.track", kwargs=event)
            primary = servers.primary
            primary.ask("SET", "marker", 1)
            assert primary.ask("WAIT", 1, 5000) >= 1
            primary.pause()
            servers.await_promotion(primary)
            for event in events[40:]:
                send_until_taken(app, event)
        harness.record(events)
        stack.await_counted()  # while the former primary hangs
        primary.resume()
        eventually(lambda: not primary.is_primary, 30)
        stack.track(harness.traffic(10, seed=8))
        stack.await_counted()
        harness.check()
        assert not stack.problems()


def test_rabbitmq_carries_every_kind_of_message_and_may_be_killed(
    database: str, nodes: tuple[RedisNode, RedisNode], tmp_path: Path
) -> None:
    (logs := tmp_path / "logs").mkdir()
    streams, _ = nodes
    with (
        RabbitMQ(tmp_path) as server,
        closing(Harness(database, streams.tcp_url())) as harness,
        running(harness, server.url, logs, 0, FLOWER_BROKER_API=server.api, FLOWER_UNAUTHENTICATED_API="true") as stack,
    ):
        harness.publish(harness.traffic(200, seed=1))
        stack.await_counted()
        streams.kill()
        stack.track(harness.traffic(10, seed=2))
        unreadable(stack)  # AMQP delivers a message again only where it was put back
        # Celery and kombu log tracebacks when they can put back no message.
        assert "Traceback" not in stack.logged(logs)
        server.kill()
        assert "USAGE_BROKER_URL" in stack.problems()["broker"]["remedy"]
        server.start()
        stack.maintain()
        streams.restart()
        eventually(lambda: harness.has_counted(harness.sent + 2), RECOVERED_SECONDS)
        assert harness.fetch("SELECT count(*) FROM usage_dead_letters WHERE payload::text LIKE '%sometext%'") == [
            {"count": 2}
        ]
        eventually(lambda: not stack.problems(), RECOVERED_SECONDS)
        lengths = eventually(lambda: queue_lengths(stack), RECOVERED_SECONDS)
        assert set(lengths) == {"celery", "maintenance"}
    assert "guest:guest" not in stack.logged(logs)


def send_until_taken(app: Celery, event: Event) -> None:
    """Send as an application does that keeps what it could not send."""

    def is_taken() -> bool:
        with suppress(OperationalError):
            app.send_task("usage.track", kwargs=event)
            return True
        return False

    eventually(is_taken, RECOVERED_SECONDS)


def unreadable(stack: Stack) -> None:
    """Send two messages without an id that no task can be called with."""
    headers: dict[str, Any] = {"lang": "py", "task": "usage.track"}
    with stack.application() as app, app.connection_for_write() as connection:
        producer = connection.Producer()
        for text in ("sometext one", "sometext two"):
            producer.publish([text], routing_key="celery", exchange="celery", headers=headers)


def queue_lengths(stack: Stack) -> dict[str, int]:
    port = stack.supervisor.flower_port
    page = fetched(f"http://{LOCALHOST}:{port}/api/queues/length")
    found = json.loads(page)["active_queues"] if page else []
    # RabbitMQ counts the messages of a new queue some seconds later.
    return {it["name"]: it["messages"] for it in found} if all("messages" in it for it in found) else {}
