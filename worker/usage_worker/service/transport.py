"""Celery's Redis transport, with messages that are noted as unacknowledged in the moment that takes them.

kombu takes a message with BRPOP and notes it afterwards in the hash from which unacknowledged messages are delivered
again. One restart of Redis in eight lost an event of `usage.track` in between; a killed worker and a full Redis lost
some, too. Here a script takes and notes at once. A script cannot wait, so BLMOVE waits: it moves the last message of
the queue to the place that it has.
"""

from __future__ import annotations

from enum import Enum, auto
from queue import Empty
from time import monotonic, time
from typing import Any
from uuid import uuid4

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from usage_worker.logs import get_logger
from usage_worker.queue.sentinel_master import ask_at_once

# What reading a message raises that somebody else wrote.
_UNREADABLE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
# Seconds after which a worker of several queues looks at all of them.
_OTHER_QUEUES_SECONDS = 0.2

log = get_logger("broker")

# Small, and gone when the message is acknowledged, so a full Redis takes it as well. What stands in the hash is what
# kombu restores: the message, its exchange (none: the next is the name of a queue) and its routing key. The message
# leaves the queue at last, since nothing undoes a script that fails.
_TAKE = """#!lua flags=allow-oom
for i = 3, #KEYS do
    local message = redis.call('LINDEX', KEYS[i], -1)
    if message then
        redis.call('HSET', KEYS[2], ARGV[2], '[' .. message .. ',"",' .. cjson.encode(ARGV[i]) .. ']')
        redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
        redis.call('RPOP', KEYS[i])
        return {KEYS[i], message}
    end
end
"""
# From now on the message has the tag with which Celery acknowledges it.
_RENAME = """#!lua flags=allow-oom
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[2])
"""


class NotingQoS(redis.QoS):
    """Renames the note of a message that its channel took."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message until it is acknowledged."""
        delivery, raw = message.delivery_info, message._raw  # noqa: SLF001 - as in kombu
        noted = dumps([raw, delivery["exchange"], delivery["routing_key"]])  # type: ignore[no-untyped-call]
        with self.channel.conn_or_acquire() as client:
            keys = self.unacked_index_key, self.unacked_key
            client.eval(_RENAME, 2, *keys, time(), self.channel.taken, delivery_tag, noted)
        virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue; what cannot be read would keep all older ones from it."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except _UNREADABLE as error:
            self.drop(tag, error)

    def drop(self, tag: str, error: Exception) -> None:
        """Delete the note of what is not a message."""
        log.warning("dropped what is not a message of Celery from its queue", reason=type(error).__name__)
        self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class _Asked(Enum):
    """What the channel asked Redis for, and has not read yet."""

    POP = auto()
    TAKE = auto()
    WAIT = auto()


class NotingChannel(redis.Channel):
    """Takes messages by a script, and waits by BLMOVE where there is none.

    It waits for one queue, the one that had the last message. Other queues are looked at after at most 0.2 s, messages
    with a priority in a queue without others after a second.
    """

    QoS = NotingQoS
    taken = ""
    """The tag under which the script notes the message that it takes."""
    _asked = _Asked.POP
    _is_empty = False
    _is_full = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._unacknowledged: set[str] = set()

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue, where `no_ack` has the messages of the channel taken in kombu's own way meanwhile."""
        if no_ack:
            self._unacknowledged.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues or not self._unacknowledged.isdisjoint(queues):
            self._asked = _Asked.POP
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
            return
        self._in_poll, self._brpop_sent_at = self.client.connection, monotonic()  # type: ignore[assignment]
        self._asked = _Asked.WAIT if self._is_empty else _Asked.TAKE
        self.client.connection.send_command(*(self._wait(queues) if self._is_empty else self._take(queues)))

    def _brpop_read(self, **options: Any) -> Any:
        if self._asked is _Asked.POP:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        if self._asked is _Asked.WAIT:
            self._read_wait(options)
            raise Empty
        answer = self._answer(options)
        if answer is None:
            self._is_empty = True
            raise Empty
        key, message = answer
        try:
            payload = self._readable(message)
        except _UNREADABLE as error:
            # By itself kombu would end the worker, also at each further delivery.
            self.qos.drop(self.taken, error)
            raise Empty from None
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]  # type: ignore[no-untyped-call]
        if queue not in self.connection._callbacks:  # noqa: SLF001 - as in kombu
            # The worker stopped to consume after it had asked. kombu would note the message a second time.
            self.qos.restore_by_tag(self.taken)
            raise Empty
        self._queue_cycle.rotate(queue)
        self.connection._deliver(payload, queue)  # noqa: SLF001 - as in kombu
        return True

    def _readable(self, message: bytes) -> Any:
        """Return a message; what `NotingQoS.append` would raise for is raised here, and not at each delivery."""
        payload = loads(bytes_to_str(message))  # type: ignore[no-untyped-call]
        read = self.Message(payload, channel=self)  # type: ignore[no-untyped-call]
        _, _ = read.delivery_info["exchange"], read.delivery_info["routing_key"]
        if not isinstance(read.delivery_tag, str):
            raise TypeError("the delivery tag is not a text")
        return payload

    def _take(self, queues: list[str]) -> tuple[Any, ...]:
        places = [(self._q_for_pri(queue, step), queue) for step in self.priority_steps for queue in queues]  # type: ignore[no-untyped-call]
        keys, names = zip(*places, strict=True)
        self.taken = f"taken:{uuid4()}"
        return "EVAL", _TAKE, 2 + len(keys), self.unacked_index_key, self.unacked_key, *keys, time(), self.taken, *names

    def _wait(self, queues: list[str]) -> tuple[Any, ...]:
        queue = queues[-1]
        timeout = self.brpop_timeout if len(queues) == 1 else _OTHER_QUEUES_SECONDS
        if self._is_full:
            return "BRPOP", f"{queue}.none", timeout
        return "BLMOVE", queue, queue, "RIGHT", "RIGHT", timeout

    def _read_wait(self, options: dict[str, Any]) -> None:
        self._is_empty = False
        try:
            self._answer(options)
        except self.connection.channel_errors:
            self._is_full = True
        else:
            self._is_full = False

    def _answer(self, options: dict[str, Any]) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "EVAL", **options)
        except self.connection.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = False


class NotingSentinelChannel(NotingChannel, redis.SentinelChannel):
    """The same at the primary that Sentinels name, with reasons of one line where they name none."""

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._sentinel_managed_pool(asynchronous)  # type: ignore[no-untyped-call]
        ask_at_once(pool.sentinel_manager, url="USAGE_BROKER_URL", variable="USAGE_BROKER_MASTER")
        return pool


class NotingTransport(redis.Transport):
    """kombu's Redis transport with these channels."""

    Channel = NotingChannel


class NotingSentinelTransport(redis.SentinelTransport):
    """kombu's transport by way of Sentinel with these channels."""

    Channel = NotingSentinelChannel
