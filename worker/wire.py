"""The canonical form of events on the wire: what our publisher writes, and a reader that takes it without detours.

An event in canonical form needs no conversion at all: its ids, times and decimals are already the text that the ledger
takes, so that checking it is all there is to do, and pydantic-core does that for a whole entry in one call. Whatever
else the contract allows (other spellings of a UUID, other time zones, numbers for decimals, an application's own key)
goes the long way through `Event`; both ways end in the same `Record`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Required

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict
from uuid_utils import uuid7

from worker.errors import EventRefusedError
from worker.events import (
    EVENT,
    Count,
    Kind,
    Messages,
    Milliseconds,
    Model,
    Record,
    decimal_text,
    explain,
    identity_of,
    refusal,
    time_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from worker.events import Window

Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
# Days that their month does not have are left to PostgreSQL.
Time = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z$"
    ),
]
Cost = Annotated[str, Field(pattern=r"^([0-9]{1,6}(\.[0-9]{1,10})?|1000000(\.0{1,10})?)$")]
Rating = Annotated[str, Field(pattern=r"^([0-4](\.[0-9]{1,10})?|5(\.0{1,10})?)$")]


class WireEvent(TypedDict, total=False):
    """An event in canonical form."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Kind
    event_id: Required[Uuid]
    occurred_at: Required[Time]
    user_id: Required[Uuid]
    agent_id: Required[Uuid]
    messages: Messages
    input_tokens: Count
    output_tokens: Count
    tokens: Count
    cost_usd: Cost
    response_time_ms: Milliseconds
    success: bool
    conversation_id: Uuid
    model: Model
    rating: Rating


_ENTRY = TypeAdapter(list[WireEvent])
_check = EVENT.validator.validate_python


class Prepared(NamedTuple):
    """An event that is ready to be sent; `body` is its canonical form."""

    event_id: str
    user_id: UUID
    body: bytes


def prepare(fields: Mapping[str, Any], window: Window) -> Prepared:
    """Check an application's own values, fill in identity and time, and write the event down.

    Raises:
        EventRefusedError: a field is unknown, of the wrong type or out of bounds; the message names it.
    """
    try:
        event = _check(fields)
    except ValidationError as error:
        raise EventRefusedError(explain(error)) from None
    if reason := refusal(event, window):
        raise EventRefusedError(reason)
    event_id, occurred_at, user_id = event.get("event_id"), event.get("occurred_at"), event["user_id"]
    identity = str(uuid7() if event_id is None else identity_of(event_id))
    # From here on it is the text of an event; what is unknown is not said.
    wire: dict[str, Any] = {name: value for name, value in event.items() if value is not None}
    wire["event_id"] = identity
    wire["occurred_at"] = _now_text() if occurred_at is None else time_text(occurred_at)
    if "cost_usd" in wire:
        wire["cost_usd"] = decimal_text(wire["cost_usd"])
    if "rating" in wire:
        wire["rating"] = decimal_text(wire["rating"])
    return Prepared(identity, user_id, to_json(wire))


def _now_text() -> str:
    seconds, nanoseconds = divmod(time_ns(), 1_000_000_000)
    return f"{_second_text(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=2)
def _second_text(seconds: int) -> str:
    """Thousands of events share a second, and writing a time down is slow."""
    return time_text(datetime.fromtimestamp(seconds, UTC))[: len("2026-01-31T23:59:59")]


def load(body: bytes) -> list[Record]:
    """The rows of the ledger that an entry in canonical form brings.

    A time outside the window, or a rating out of place, is the caller's to find.

    Raises:
        pydantic.ValidationError: not everything is in canonical form, or something is wrong.
    """
    return list(map(_record, _ENTRY.validate_json(body, strict=True)))


def _record(event: WireEvent) -> Record:
    input_tokens, output_tokens, tokens = (
        event.get("input_tokens", 0),
        event.get("output_tokens", 0),
        event.get("tokens"),
    )
    return Record(
        event["event_id"],
        event["occurred_at"],
        event.get("type", "usage"),
        event["user_id"],
        event["agent_id"],
        event.get("messages", 1),
        input_tokens,
        output_tokens,
        input_tokens + output_tokens if tokens is None else tokens,
        event.get("cost_usd"),
        event.get("response_time_ms"),
        event.get("success", True),
        event.get("conversation_id"),
        event.get("model"),
        event.get("rating"),
    )
