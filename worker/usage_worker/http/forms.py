"""The forms of a request's body, told by its Content-Type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.exceptions import HTTPException

from usage_worker.http import cloud_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

OURS, CLOUD_EVENT, CLOUD_EVENTS = (
    "application/json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
)


class Form(NamedTuple):
    """How to find the events in the JSON of a body, and the fields of each in it."""

    items_of: Callable[[Any], list[Any]]
    fields_of: Callable[[Any], Any]


def form_of(request: Request) -> Form:
    """Return the form of a request's body.

    Raises:
        HTTPException: 415, the type or the charset is not supported.
    """
    kind, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    charset = dict(part.partition("=")[::2] for part in parameters).get("charset", "utf-8").strip('"')
    if kind not in FORMS or charset not in ("utf-8", "utf8", "us-ascii"):
        raise HTTPException(415, f"Content-Type: one of {', '.join(FORMS)}, in UTF-8", {"Accept": ", ".join(FORMS)})
    headers = request.headers.raw
    if kind == OURS and cloud_events.is_in_headers(headers):
        return Form(_one, lambda data: cloud_events.fields_of({**cloud_events.in_headers(headers), "data": data}))
    return FORMS[kind]


def _one_or_more(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _one(value: Any) -> list[Any]:
    return [value]


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise HTTPException(400, "a batch is an array of CloudEvents")
    return value


def _as_it_is(item: Any) -> Any:
    return item


FORMS = {
    OURS: Form(_one_or_more, _as_it_is),
    CLOUD_EVENT: Form(_one, cloud_events.fields_of),
    CLOUD_EVENTS: Form(_array, cloud_events.fields_of),
}
