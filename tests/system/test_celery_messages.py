"""Messages of an application's Celery survive Redis' restart, lost answers, and what Redis refuses."""

from __future__ import annotations

import json
import time
from contextlib import closing
from queue import Empty
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu.entity import Queue

from tests.conftest import with_login
from tests.faults.harness import Harness
from tests.helpers import broker_url, eventually
from usage_worker.local import EmbeddedValkey
from usage_worker.local.supervisor import Supervisor
from usage_worker.service.app import make_app
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from kombu.message import Message

# The visibility timeout, the interval at which kombu looks, and the time to begin again.
RESTORED_SECONDS = 120


def test_celery_messages_survive_redis_restart(database: str, server_folder: Path, tmp_path: Path) -> None:
    """Those that the worker held when Redis went away are delivered again after the visibility timeout."""
    with (
        EmbeddedValkey(server_folder / "celery-messages") as valkey,
        closing(Harness(database, valkey.url())) as harness,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in harness.env.items():
            patch.setenv(name, value)
        with Supervisor(harness.database, harness.redis_url, flower_port=None, log_dir=tmp_path) as stack:
            stack.wait_ready(180)
            events = harness.traffic(400, seed=5)
            with closing(Celery(broker=broker_url(harness.redis_url))) as sender:
                for event in events:
                    sender.send_task("usage.track", kwargs=event)
            valkey.restart()
            harness.record(events)

            def all_are_counted() -> bool:
                stack.poll()  # Celery's worker may end when it loses Redis with a message in hand
                return harness.has_counted(harness.sent)

            eventually(all_are_counted, RESTORED_SECONDS)
            harness.check()
        logged = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert "Connection to broker lost" in logged
        # Of a default of a version to come, in 900 characters at each loss.
        assert "CPendingDeprecationWarning" not in logged


def test_message_whose_answer_never_arrived_is_delivered_again(
    redis_worker_url: str, redis_client: redis.Redis
) -> None:
    """As where the worker is killed, or Redis goes away, before the worker has read it."""
    app = make_app(Settings(REDIS_URL=redis_worker_url))
    app.conf.broker_transport_options = {"visibility_timeout": 0}
    app.send_task("usage.track", kwargs={"number": 1})
    with app.connection_for_read() as connection, connection.Consumer([Queue("celery")]) as consumer:  # type: ignore[no-untyped-call]
        channel: Any = consumer.channel
        channel.connection.cycle._register_BRPOP(channel)
        eventually(lambda: redis_client.llen("celery") == 0)
        assert redis_client.hlen("unacked") == 1
        channel.client.connection.disconnect()
        channel._in_poll = None
        channel.qos.restore_visible()
    assert [message.payload[1] for message in take(app)] == [{"number": 1}]
    assert redis_client.hlen("unacked") == 0


def test_message_for_a_consumer_that_is_gone_goes_back_into_its_queue(
    redis_worker_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a worker is stopped between its question and the answer."""
    app = make_app(Settings(REDIS_URL=redis_worker_url))
    app.send_task("usage.track", kwargs={"number": 1})
    with app.connection_for_read() as connection:
        consumer = connection.Consumer([Queue("celery")])  # type: ignore[no-untyped-call]
        consumer.consume()
        channel: Any = consumer.channel
        channel.connection.cycle._register_BRPOP(channel)
        eventually(lambda: redis_client.llen("celery") == 0)
        consumer.cancel()
        with pytest.raises(Empty):
            channel.handlers["BRPOP"]()
    assert (redis_client.llen("celery"), redis_client.hlen("unacked")) == (1, 0)
    assert not caplog.records
    assert [message.payload[1] for message in take(app)] == [{"number": 1}]


def test_message_that_redis_refused_to_note_stays_in_its_queue(redis_url: str, redis_client: redis.Redis) -> None:
    user, password = f"noting-{uuid4().hex}", uuid4().hex
    redis_client.execute_command("ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all", "-zadd")  # type: ignore[no-untyped-call]
    app = make_app(Settings(REDIS_URL=with_login(redis_url, user, password)))
    try:
        app.send_task("usage.track", kwargs={"number": 1})
        with pytest.raises(app.connection_for_read().channel_errors):
            take(app)
        assert redis_client.llen("celery") == 1
        redis_client.execute_command("ACL", "SETUSER", user, "+zadd")  # type: ignore[no-untyped-call]
        assert [message.payload[1] for message in take(app)] == [{"number": 1}]
    finally:
        redis_client.acl_deluser(user)


def message_with(**properties: Any) -> str:
    """Return a message whose properties another program wrote."""
    info = {"exchange": "", "routing_key": "celery"}
    return json.dumps(
        {"body": "x", "headers": {}, "properties": {"delivery_info": info, "delivery_tag": "1"} | properties}
    )


GARBAGE = {
    "text": "not JSON",
    "number": "5",
    "object": "{}",
    "no properties": '{"body": "x", "headers": {}}',
    "nested": "[" * 100_000,
    "bytes": b"\xff",
    "no tag": message_with(delivery_tag=None),
    "tag of another type": message_with(delivery_tag=True),
    "no routing key": message_with(delivery_info={"exchange": ""}),
    "no exchange": message_with(delivery_info={"routing_key": "celery"}),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_in_a_queue_keeps_no_message_from_its_worker(
    garbage: str | bytes, redis_worker_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(Settings(REDIS_URL=redis_worker_url))
    redis_client.lpush("celery", garbage)
    app.send_task("usage.track", kwargs={"number": 1})
    assert [message.payload[1] for message in take(app)] == [{"number": 1}]
    assert redis_client.hlen("unacked") == 0


def test_note_that_cannot_be_read_keeps_no_older_one_from_its_queue(
    redis_worker_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(Settings(REDIS_URL=redis_worker_url))
    app.conf.broker_transport_options = {"visibility_timeout": 0}
    app.send_task("usage.track", kwargs={"number": 1})
    take(app, acknowledged=False)
    redis_client.hset("unacked", "taken:bad", '[not JSON,"","celery"]')
    redis_client.zadd("unacked_index", {"taken:bad": time.time()})
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        eventually(lambda: channel.qos.restore_visible() or redis_client.hlen("unacked") == 0)
    assert redis_client.llen("celery") == 1


def test_worker_on_full_redis_takes_and_waits(redis_worker_url: str, redis_client: redis.Redis) -> None:
    app = make_app(Settings(REDIS_URL=redis_worker_url))
    app.send_task("usage.track", kwargs={"number": 1})
    redis_client.config_set("maxmemory", 1)
    try:
        (message,) = take(app, acknowledged=False)
        assert (message.payload[1], redis_client.hlen("unacked")) == ({"number": 1}, 1)
        with pytest.raises(TimeoutError):
            take(app, timeout=2.5)
    finally:
        redis_client.config_set("maxmemory", 0)


def take(app: Celery, *, acknowledged: bool = True, timeout: float = 10) -> list[Message]:
    """Take the next message as a worker does, from a connection of its own."""
    taken: list[Message] = []

    def keep(_body: Any, message: Message) -> None:
        taken.append(message)
        if acknowledged:
            message.ack()  # type: ignore[no-untyped-call]

    with app.connection_for_read() as connection:
        queue = Queue("celery")  # type: ignore[no-untyped-call]
        # A full Redis 7 declares no queue, as a worker does at its start.
        with connection.Consumer([queue], callbacks=[keep], auto_declare=False):
            connection.drain_events(timeout=timeout)
        return taken
