"""The entry point for applications that only use Celery: `usage.track` and `usage.track_many`.

Whatever a message holds ends in the stream, and what cannot be read becomes a dead letter there: an exception in a task
would lose the event, and one in the worker's main process would stop the worker at every delivery.
"""

from __future__ import annotations

import pickle
import time
from contextlib import contextmanager, suppress
from hashlib import sha256
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, UUID, uuid5

from celery.exceptions import InvalidTaskError, Reject, SoftTimeLimitExceeded
from celery.worker.strategy import default
from pydantic_core import to_json
from uuid_utils.compat import uuid7

from usage_worker.errors import StreamUnavailableError
from usage_worker.events.columns import PACK_EVENTS
from usage_worker.logs import get_logger
from usage_worker.queue.entry import Pack
from usage_worker.service import task_options
from usage_worker.tracing import TRACEPARENT, continued

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery, Task
    from kombu.message import Message

    from usage_worker.queue.stream import EventStream

# Fewer brackets cannot nest so deeply that the pool fails to pickle them.
_HARMLESS_BRACKETS = 100
# Where the pool pickles a message, and its processes read it, less of the stack is left than where it is checked.
_LEVELS_TO_SPARE = 50
# Seconds after each attempt to append events while Redis is not available. The last begins within `_APPEND_SECONDS` of
# the first, since other tasks wait for the process; one at which Redis hangs lasts 5 s.
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
_APPEND_SECONDS = 9.0
# Seconds after a failure that no outage explains.
_FAILURE_PAUSE = 1.0
# An entry that is too large is refused whole; so one huge event is alone in its own.
_PACK_BYTES = 2**22
# Seconds for which the main process keeps an unreadable message that Redis did not take.
RETURN_SECONDS = 5.0

log = get_logger("entry_point")


def track(self: Task, /, *args: Any, **event: Any) -> None:
    """Append one event from an application that only uses Celery."""
    _append(self, [{"args": list(args), "kwargs": event}] if args else [event])


def track_many(self: Task, /, *args: Any, **kwargs: Any) -> None:
    """Append many events at once, given as the list `events`."""
    events: Any = args[0] if len(args) == 1 and not kwargs else kwargs.get("events")
    if not isinstance(events, list) or len(args) + len(kwargs) != 1:
        events = [{"args": list(args), "kwargs": kwargs}]
    _append(self, events)


def strategy(task: Task, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return what the worker's main process does with a message of a task (Celery's `Task.Strategy`).

    A message that it could not hand to the pool goes into the stream as it is.
    """
    handle = default(task, app, consumer, **options)

    def refuse(message: Message, error: Exception, ack: Any) -> Any:
        try:
            quarantine(app.usage_resources.stream, task.name, message, error)
        except StreamUnavailableError as outage:  # which would end the worker
            return_later(consumer, message, task.name, outage)
            return None
        return ack(log, consumer.connection_errors)

    def handle_readable(message: Message, body: Any, ack: Any, *others: Any, **more: Any) -> Any:
        try:
            _check(message)
        except Exception as error:  # noqa: BLE001 - a message may raise anything, and would raise it for ever
            return refuse(message, error, ack)
        try:
            return handle(message, body, ack, *others, **more)
        except InvalidTaskError as error:  # a wrong time; Celery would drop the message
            return refuse(message, error, ack)

    return handle_readable


def _check(message: Message) -> None:
    """Raise whatever the main process would raise while it reads the message and sends it to the pool."""
    payload, raw = message.payload, message.body
    is_first_protocol = "args" in payload
    # In protocol 2 the arguments are the body.
    args, kwargs, others = (payload["args"], payload["kwargs"], None) if is_first_protocol else payload
    if not isinstance(args, list) or not isinstance(kwargs, dict) or "self" in kwargs:
        raise TypeError("Celery cannot call a task with these arguments")
    if others and not isinstance(others, dict):
        raise TypeError("Celery cannot read what follows the arguments")
    _check_headers(payload if is_first_protocol else message.headers)
    body = raw.encode(errors="replace") if isinstance(raw, str) else bytes(raw)
    may_be_deep = body.count(b"[") + body.count(b"{") > _HARMLESS_BRACKETS
    nested: Any = [message.headers, payload if may_be_deep else None]
    for _ in range(_LEVELS_TO_SPARE):
        nested = [nested]
    pickle.dumps(nested)


def _check_headers(headers: Mapping[str, Any]) -> None:
    """Raise for headers with which the main process ends, instead of refusing the message."""
    hash(headers.get("id"))
    _, _ = limits = headers.get("timelimit") or (None, None)
    if not all(limit is None or isinstance(limit, int | float) for limit in limits):
        raise TypeError("a time limit is not a number")
    hash(tuple(headers.get("stamped_headers") or ()))
    for time_header in (headers.get("eta"), headers.get("expires")):
        # Celery itself refuses other texts that are not times.
        if time_header is not None and not (time_header and isinstance(time_header, str)):
            raise TypeError("eta or expires is not a time")


def return_later(consumer: Any, message: Message, name: str, outage: StreamUnavailableError) -> None:
    """Put a message back into its queue after a pause; AMQP delivers none again while its connection lasts."""
    log.warning("an unreadable message waits", task=name, reason=str(outage))
    consumer.timer.call_after(RETURN_SECONDS, message.reject_log_error, (log, consumer.connection_errors, True))


def quarantine(stream: EventStream, name: str, message: Message, error: Exception) -> None:
    """Append a message as an event that ingest quarantines.

    Raises:
        StreamUnavailableError: Redis does not take it; the message is delivered again.
    """
    raw = message.body
    text = raw if isinstance(raw, str) else bytes(raw).decode("utf-8", "backslashreplace")
    body = dumps({"task": name, "message": text}).encode()
    # The tags of AMQP are numbers of a connection: what has no id either is told by its content.
    tag = message.delivery_tag if isinstance(message.delivery_tag, str) else sha256(body).hexdigest()
    key = _key(str(message.headers.get("id") or tag))
    log.warning("a message cannot be read", task=name, reason=type(error).__name__)
    stream.append([(stream.shard_of(key), Pack.of_objects(key, [body]))])


def _append(task: Task, events: list[Any]) -> None:
    """Append events, bad ones too: ingest quarantines them with their reason, an exception would lose them."""
    with _put_back(task):
        stream: EventStream = task.app.usage_resources.stream
        # A task that is called as a function, as by `chunks`, has no message, and no id.
        key = _key(str(task.request.id or uuid7()))
        shard = stream.shard_of(key)
        parts = _parts(list(map(_json, events)))
        packs = [(shard, Pack.of_objects(uuid5(key, str(start)), bodies)) for start, bodies in parts]
        with continued(getattr(task.request, TRACEPARENT, None)):
            _append_packs(task, stream, packs)


def _append_packs(task: Task, stream: EventStream, packs: list[tuple[int, Pack]]) -> None:
    end = time.monotonic() + _APPEND_SECONDS
    for pause in (*_PAUSES, None):
        try:
            stream.append(packs)
        except StreamUnavailableError as outage:
            log.warning("events wait", task=task.name, reason=str(outage))
            if pause is None or time.monotonic() + pause > end:
                raise
            time.sleep(pause)
        else:
            return


@contextmanager
def _put_back(task: Task) -> Iterator[None]:
    """Put the message back into its queue whatever happens: nothing in its events may fail.

    Celery's own retry would send a new message first, and drop this one where that fails.
    """
    try:
        yield
    except Exception as error:
        if task.request.called_directly or task.request.is_eager:  # there is no message: the caller must know
            raise
        # Celery would drop the message if a time limit ended this block.
        with suppress(SoftTimeLimitExceeded):
            if not isinstance(error, StreamUnavailableError):  # which is logged already
                log.warning("events wait", task=task.name, reason=type(error).__name__)
                time.sleep(_FAILURE_PAUSE)
        raise Reject(requeue=True) from None


def _parts(bodies: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the events of one entry each, with the place of the first."""
    start = size = 0
    for place, body in enumerate(bodies):
        if place > start and (place - start == PACK_EVENTS or size + len(body) > _PACK_BYTES):
            yield start, bodies[start:place]
            start, size = place, 0
        size += len(body)
    if bodies:
        yield start, bodies[start:]


def _key(task_id: str) -> UUID:
    """Return the identity of a message: its task id, which an application may choose."""
    try:
        return UUID(task_id)
    except ValueError:
        # Half a surrogate pair cannot be hashed as it is.
        return uuid5(NAMESPACE_OID, task_id.encode(errors="backslashreplace").decode())


def _json(event: Any) -> bytes:
    try:
        return to_json(event)
    except ValueError:  # half a surrogate pair, which UTF-8 cannot hold and the escapes of JSON can
        pass
    try:
        return dumps(event, default=str).encode()
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - what an application's own serializer brings may raise anything
        return dumps({"unreadable": type(error).__name__}).encode()


# The message is acknowledged after the append. If a worker dies in between, or a time limit ends the task, it is
# delivered again, and the key of the pack, made from the id of the task, shows the database that it is the same one.
OPTIONS: dict[str, Any] = task_options.OPTIONS | {
    "Strategy": "usage_worker.service.entry_point:strategy",
    "Request": "usage_worker.service.request:AppendRequest",
    # Any arguments: what is wrong with them is for ingest to say.
    "typing": False,
    "acks_late": True,
    "acks_on_failure_or_timeout": False,
    "reject_on_worker_lost": True,
    "least_time_limit": 60.0,
}
