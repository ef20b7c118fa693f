"""`POST /api/v1/events`: events of any program that speaks HTTP."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from usage_worker.http.access import key_name_of
from usage_worker.http.body import parsed, read_body
from usage_worker.http.forms import form_of
from usage_worker.http.keys import Right
from usage_worker.http.places import Places
from usage_worker.http.receiver import Taken
from usage_worker.tracing import TRACEPARENT, continued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from usage_worker.http.access import Access
    from usage_worker.http.forms import Form
    from usage_worker.http.receiver import Receiver
    from usage_worker.http.request_metrics import RequestMetrics

MAX_EVENTS = 5_000
"""Of one request, which also bounds the refusals in its answer."""
# Of a process. Each has a thread, so that none waits for another's answer from Redis, which may take seconds.
MAX_IN_FLIGHT = 64
_BUSY = f"too many requests are in flight, of this key or of all {MAX_IN_FLIGHT}; send more events in each"
RETRY_SECONDS = {HTTPStatus.TOO_MANY_REQUESTS: 1, HTTPStatus.SERVICE_UNAVAILABLE: 5}


class EventsEndpoint:
    """The endpoint; 202 says that Redis has the events."""

    def __init__(self, receiver: Receiver, access: Access, metrics: RequestMetrics) -> None:
        self._receiver, self._access, self._metrics = receiver, access, metrics
        self._threads = CapacityLimiter(MAX_IN_FLIGHT)
        self._places = Places(MAX_IN_FLIGHT)

    async def answer(self, request: Request) -> Response:
        """Answer the request."""
        try:
            self._access.check(request, Right.WRITE)
            taken = await self._take(request)
        except HTTPException as error:
            return _answer(HTTPStatus(error.status_code), Taken(0, [], error.detail), error.headers)
        except ClientDisconnect:
            return _answer(HTTPStatus.BAD_REQUEST, Taken(0, [], "the client has gone"))
        self._metrics.count_events(taken.accepted or 0, len(taken.refused))
        if taken.error:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, taken)
        nothing_good = taken.refused and not taken.accepted
        return _answer(HTTPStatus.BAD_REQUEST if nothing_good else HTTPStatus.ACCEPTED, taken)

    async def _take(self, request: Request) -> Taken:
        form = form_of(request)
        key = key_name_of(request)
        if not self._places.has_room(key):
            raise HTTPException(429, _BUSY)
        with self._places.taken(key):
            body = await read_body(request)
            take = partial(self._receiver.take, partial(_items, form, body), form.fields_of, key)
            with continued(request.headers.get(TRACEPARENT)):  # the thread gets a copy of this context
                return await to_thread.run_sync(take, limiter=self._threads)


def _items(form: Form, body: bytes) -> list[Any]:
    items = form.items_of(parsed(body))
    if len(items) > MAX_EVENTS:
        raise HTTPException(413, f"more than {MAX_EVENTS:,} events; send fewer at once")
    return items


def _answer(status: HTTPStatus, taken: Taken, headers: Mapping[str, str] | None = None) -> Response:
    content: dict[str, Any] = {"accepted": taken.accepted, "refused": [asdict(it) for it in taken.refused]}
    if taken.error:
        content["error"] = taken.error
    retry = {"Retry-After": str(RETRY_SECONDS[status])} if status in RETRY_SECONDS else {}
    return JSONResponse(content, int(status), {**(headers or {}), **retry})
