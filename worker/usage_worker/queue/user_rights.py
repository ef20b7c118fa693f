"""What the user of REDIS_URL may do, found out by commands that change nothing: ACL DRYRUN is for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import StreamRefusedError, StreamUnavailableError

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# Each of a kind that workers, beat, Flower or commands need. All name keys that nobody has: SET … XX,
# ZADD … XX and XADD … NOMKSTREAM then write nothing, and the others find nothing.
_TRIALS = (
    "XADD usage:events:{doctor} NOMKSTREAM * v 1",
    "XREADGROUP GROUP doctor doctor COUNT 1 STREAMS usage:events:{doctor} >",
    "XACK usage:events:{doctor} doctor 1-1",
    "XDEL usage:events:{doctor} 1-1",
    "XPENDING usage:events:{doctor} doctor",
    "XCLAIM usage:events:{doctor} doctor doctor 1 1-1",
    "XINFO STREAM usage:events:{doctor}",
    "SET usage:doctor 1 XX",
    "GET usage:doctor",
    "HDEL usage:doctor field",
    "HGETALL usage:doctor",
    "DEL usage:doctor",
    "TIME",
)
# Where Celery has its messages on the same server.
_OF_CELERY = (
    "LREM celery:doctor 0 message",
    "LREM maintenance:doctor 0 message",
    "HDEL unacked:doctor tag",
    "ZADD unacked_index:doctor XX 1 tag",
    "ZREM unacked_index:doctor tag",
    "SREM _kombu.binding.doctor queue",
    "LREM doctor.celery.pidbox 0 message",
    "EXISTS celery:doctor",
    "BRPOP celery:doctor 0.001",
)
_OF_CLUSTER = ("CLUSTER SLOTS",)
_SCRIPT = "return redis.call('EXISTS', KEYS[1])"
_MOVED = "moving to another node"
_CHANNELS = "/doctor.*"


def missing_rights(connection: RedisConnection, *, is_broker: bool) -> list[str]:
    """Return the commands with keys or channels that this user may not use, on any of the servers.

    Args:
        connection: the servers of the streams.
        is_broker: whether Celery has its messages there.

    Raises:
        StreamUnavailableError: a server does not answer.
    """
    is_cluster, of_celery = connection.kind == "cluster", _OF_CELERY if is_broker else ()
    trials = [tuple(trial.split()) for trial in (*_TRIALS, *(_OF_CLUSTER if is_cluster else ()), *of_celery)]
    trials.append(("EVAL", _SCRIPT, "1", "celery:doctor" if is_broker else "usage:events:{doctor}"))
    missing = [
        _shown(trial) for server in connection.servers() for trial in trials if not _may(connection, server, trial)
    ]
    if is_broker and not _may_subscribe(connection):
        missing.append(f"PSUBSCRIBE {_CHANNELS}")
    return list(dict.fromkeys(missing))


def _may(connection: RedisConnection, server: str, trial: tuple[str, ...]) -> bool:
    try:
        with connection.server(server) as client:
            client.execute_command(*trial)  # type: ignore[no-untyped-call]
    except StreamRefusedError:
        return False
    except StreamUnavailableError as error:
        # Rights are looked at first: then the stream or the group is missing, as it should be, or memory, or another
        # node holds the key.
        if any(reason in str(error) for reason in ("no such key", "NOGROUP", "Redis is full", _MOVED)):
            return True
        raise
    return True


def _may_subscribe(connection: RedisConnection) -> bool:
    try:
        with connection.server("") as client, client.pubsub() as channels:  # type: ignore[no-untyped-call]
            channels.psubscribe(_CHANNELS)
            channels.get_message(timeout=1)
    except StreamRefusedError:
        return False
    return True


def _shown(trial: tuple[str, ...]) -> str:
    """Return command and key of a trial."""
    return " ".join([trial[0], *(word for word in trial[1:] if "doctor" in word and word != "doctor")][:2])
