"""The usage event: what it may say, what makes it one and the same event, and its way to and from JSON.

`Event` is what travels; `Record` is what is counted: every default filled in, times in UTC, one row of the ledger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from uuid_utils.compat import uuid7

from worker.errors import EventRefusedError

# Namespace of the UUIDv5 (RFC 9562, section 5.5) that an application's own idempotency key becomes.
KEY_NAMESPACE = UUID("6f1b6bb4-5b0e-5d3c-9a50-0d6f6ff7c1a2")
MAX_AHEAD = timedelta(minutes=5)

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
# PostgreSQL's text cannot hold U+0000, so it is refused here, where the field still has a name.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class Event(BaseModel):
    """One usage event, or one rating, of a user and an agent.

    Tokens are counts, `cost_usd` is in US dollars with at most 10 decimals, `response_time_ms` in milliseconds.
    None means unknown and is never counted as 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["usage", "rating"] = "usage"
    event_id: UUID | Annotated[Text, Field(min_length=1, max_length=255)] | None = None
    occurred_at: AwareDatetime | None = None
    user_id: UUID
    agent_id: UUID
    messages: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    input_tokens: Count = 0
    output_tokens: Count = 0
    tokens: Count | None = None
    cost_usd: Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=10)] | None = None
    response_time_ms: Annotated[int, Field(ge=0, le=86_400_000)] | None = None
    success: bool = True
    conversation_id: UUID | None = None
    model: Annotated[Text, Field(max_length=200)] | None = None
    rating: Annotated[Decimal, Field(ge=0, le=5, decimal_places=10)] | None = None


class Record(NamedTuple):
    """An event as it is counted; the order of the fields is the order of the ledger's columns."""

    event_id: UUID
    occurred_at: datetime
    type: str
    user_id: UUID
    agent_id: UUID
    messages: int
    input_tokens: int
    output_tokens: int
    tokens: int
    cost_usd: Decimal | None
    response_time_ms: int | None
    success: bool
    conversation_id: UUID | None
    model: str | None
    rating: Decimal | None


class Window(NamedTuple):
    """The span of time within which an event is accepted."""

    oldest: datetime
    newest: datetime

    @classmethod
    def around(cls, now: datetime, accept: timedelta) -> Window:
        return cls(now - accept, now + MAX_AHEAD)


def make_event(fields: dict[str, Any], window: Window) -> Event:
    """A complete event from an application's own values: identity and time are filled in.

    Raises:
        EventRefusedError: a field is unknown, of the wrong type or out of bounds; the message names it.
    """
    if fields.get("event_id") is None:
        fields["event_id"] = uuid7()
        if fields.get("occurred_at") is None:
            fields["occurred_at"] = datetime.now(UTC)
    try:
        event = Event(**fields)
    except ValidationError as error:
        raise EventRefusedError(explain(error)) from None
    if reason := refusal(event, window):
        raise EventRefusedError(reason)
    return event


def refusal(event: Event, window: Window) -> str | None:
    """Why an event cannot be accepted although each of its fields can, or None."""
    if (event.type == "rating") != (event.rating is not None):
        return "rating: goes with type rating, and only with it"
    if event.occurred_at is None:
        if isinstance(event.event_id, str):
            return "occurred_at: must be given with an idempotency key of your own"
    elif event.occurred_at < window.oldest:
        return f"occurred_at: older than the acceptance window ({(window.newest - window.oldest).days} days)"
    elif event.occurred_at > window.newest:
        return f"occurred_at: more than {MAX_AHEAD.seconds // 60} minutes in the future"
    return None


def record_of(event: Event, entry_key: UUID, position: int, entry_time: datetime) -> Record:
    """The ledger row of an accepted event.

    An event without identity or time takes both from its entry, so that they are the same whenever it is read again.
    """
    event_id = event.event_id
    if event_id is None:
        event_id = uuid5(entry_key, str(position))
    elif isinstance(event_id, str):
        event_id = uuid5(KEY_NAMESPACE, event_id)
    return Record(
        event_id,
        entry_time if event.occurred_at is None else event.occurred_at,
        event.type,
        event.user_id,
        event.agent_id,
        event.messages,
        event.input_tokens,
        event.output_tokens,
        event.input_tokens + event.output_tokens if event.tokens is None else event.tokens,
        event.cost_usd,
        event.response_time_ms,
        event.success,
        event.conversation_id,
        event.model,
        event.rating,
    )


def explain(error: ValidationError) -> str:
    """Which fields were wrong and why, in one line, without their values (they may be secret)."""
    problems = {str(item["loc"][0]) if item["loc"] else "event": item["msg"] for item in error.errors()}
    return "; ".join(f"{field}: {message}" for field, message in problems.items())
