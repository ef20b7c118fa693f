"""Celery's Redis transport, which keeps a message that it has popped until it is noted as unacknowledged.

kombu pops a message with BRPOP and then writes it to the hash from which unacknowledged messages are delivered again.
Where Redis went away in between, or was full, kombu dropped it: one restart of Redis in eight lost an event of
`usage.track`. What is left is a worker that is killed between the two commands, and an answer that never arrives.
"""

from __future__ import annotations

from time import time
from typing import Any, ClassVar

from kombu.transport import redis, virtual
from kombu.utils.json import dumps

# Small, and gone when the message is acknowledged, so a full Redis takes it as well.
_NOTE = """#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""


class KeepingQoS(redis.QoS):
    """Notes each message at once, or as soon as Redis takes it; it is delivered after the visibility timeout then."""

    # Of the process: kombu makes a new transport and channel for each connection.
    _popped: ClassVar[dict[str, str]] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that was popped."""
        delivery = message.delivery_info
        raw = message._raw  # noqa: SLF001 - as in kombu
        self._popped[delivery_tag] = dumps([raw, delivery["exchange"], delivery["routing_key"]])  # type: ignore[no-untyped-call]
        self.note_popped()
        virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    def note_popped(self) -> None:
        """Note what was popped and not noted yet, and forget it."""
        for tag, message in list(self._popped.items()):
            self._note(tag, message)
            del self._popped[tag]

    def _note(self, tag: str, message: str) -> None:
        score = time()
        with self.channel.conn_or_acquire() as client:
            try:
                pipeline = client.pipeline()
                pipeline.zadd(self.unacked_index_key, {tag: score}).hset(self.unacked_key, tag, message).execute()
            except self.channel.connection.channel_errors:
                # Only as the second way: Redis 6.2 knows no such flags.
                client.eval(_NOTE, 2, self.unacked_index_key, self.unacked_key, score, tag, message)


class KeepingChannel(redis.Channel):
    """Notes what an earlier connection has popped before it pops anything itself."""

    QoS = KeepingQoS

    def _brpop_start(self, timeout: float | None = None) -> None:
        self.qos.note_popped()
        super()._brpop_start(timeout)  # type: ignore[no-untyped-call]


class KeepingTransport(redis.Transport):
    """kombu's Redis transport with these channels."""

    Channel = KeepingChannel
