"""The usage event: its fields, its identity, and the reasons for which it is refused.

`Event` is what an application sends. `Record` is what is counted: every default filled in, one row of the ledger, in
the canonical text on which JSON, Python and PostgreSQL agree. Text of a fixed form compares and sorts like its value,
and is not parsed more often than needed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Required, get_args, get_origin, get_type_hints
from uuid import UUID, uuid5

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from usage_worker.events.values import (
    DECIMALS,
    Reading,
    decimal_text,
    read_count,
    read_decimal,
    read_milliseconds,
    read_time,
    read_truth,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# The user and the agent of an event, as canonical text.
Pair = tuple[str, str]

# Namespace of the UUIDv5 (RFC 9562, section 5.5) into which an application's own idempotency key is converted.
KEY_NAMESPACE = UUID("6f1b6bb4-5b0e-5d3c-9a50-0d6f6ff7c1a2")
MAX_AHEAD = timedelta(minutes=5)
# How far clocks may differ, since times decide what is accepted. NTP keeps them within a second.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=1)
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

Kind = Literal["usage", "rating"]
# A counter takes nine million such events before it is full.
MAX_TOKENS = 10**12
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
Messages = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=86_400_000)]
Money = Annotated[Decimal, Field(strict=True, ge=0, le=1_000_000, decimal_places=DECIMALS)]
Stars = Annotated[Decimal, Field(strict=True, ge=0, le=5, decimal_places=DECIMALS)]
COST_TEXT = r"^([0-9]{1,6}(\.[0-9]{1,10})?|1000000(\.0{1,10})?)$"
STARS_TEXT = r"^([0-4](\.[0-9]{1,10})?|5(\.0{1,10})?)$"
Time = Annotated[AwareDatetime, Field(strict=True)]
# PostgreSQL's text cannot hold U+0000, so it is refused here, where the reason can name the field.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Model = Annotated[Text, Field(max_length=200)]
# Text in the form of a UUID is a UUID; any other text is the application's own idempotency key.
EventKey = Annotated[UUID | Annotated[Text, Field(min_length=1, max_length=255)], Field(union_mode="left_to_right")]


class Event(TypedDict, total=False):
    """One usage event, or one rating, of a user and an agent; only `user_id` and `agent_id` are required.

    Tokens are counts, `cost_usd` is in US dollars, `response_time_ms` in milliseconds. None means unknown: the field
    has its default, and where that is None, nothing is counted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)  # type: ignore[misc]

    event_id: EventKey | None
    """Identity of the event: a UUID, or an idempotency key of the application's own."""
    occurred_at: Annotated[Time, Reading(read_time)] | None
    """When it happened; by default the time at which it is published. Must lie within the acceptance window."""
    type: Annotated[Kind, Reading(default="usage")]
    """`usage` counts a use of the agent, `rating` records the user's rating of it."""
    user_id: Required[UUID]
    """The user."""
    agent_id: Required[UUID]
    """The agent."""
    messages: Annotated[Messages, Reading(read_count, default=1)]
    """Messages exchanged."""
    input_tokens: Annotated[Count, Reading(read_count, default=0)]
    """Tokens sent to the model."""
    output_tokens: Annotated[Count, Reading(read_count, default=0)]
    """Tokens received from the model."""
    tokens: Annotated[Count, Reading(read_count)] | None
    """Tokens in total; by default the sum of input and output tokens, which has the same bounds."""
    cost_usd: Annotated[Money, Reading(read_decimal, canonical=COST_TEXT)] | None
    """Cost in US dollars."""
    response_time_ms: Annotated[Milliseconds, Reading(read_milliseconds)] | None
    """Time to the complete answer, in milliseconds."""
    success: Annotated[bool, Field(strict=True), Reading(read_truth, default=True)]
    """Whether the agent answered without an error."""
    conversation_id: UUID | None
    """The conversation; distinct ones are counted."""
    model: Model | None
    """Name of the model; kept in the ledger only."""
    rating: Annotated[Stars, Reading(read_decimal, canonical=STARS_TEXT)] | None
    """The user's rating; required for the type `rating` and refused otherwise."""


EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_types = get_type_hints(Event, include_extras=True)
FIELDS = tuple(_types)
REQUIRED = frozenset(name for name in FIELDS if get_origin(_types[name]) is Required)

# In words that do not depend on the producer's language.
_REASONS = {
    "dict_type": "Input should be an object",
    "string_unicode": "Input should be valid Unicode, without half a surrogate pair",
}

# An event's values in the order of its fields, with the defaults: a tuple is validated in less time than an object.
Values = tuple[Any, ...]
VALUES: TypeAdapter[Values] = TypeAdapter(
    tuple[tuple(get_args(_types[name])[0] if name in REQUIRED else _types[name] for name in FIELDS)]  # type: ignore[arg-type,misc]
)
_DEFAULT_VALUES = {"type": "usage", "messages": 1, "input_tokens": 0, "output_tokens": 0, "success": True}
_DEFAULTS = tuple(map(_DEFAULT_VALUES.get, FIELDS))
_OCCURRED_AT, _TYPE, _INPUT, _OUTPUT, _TOKENS, _RATING = map(
    FIELDS.index, ("occurred_at", "type", "input_tokens", "output_tokens", "tokens", "rating")
)


class Record(NamedTuple):
    """An event as it is counted; its fields have the order of `Event` and of the ledger's columns.

    Ids are lower-case UUIDs with hyphens, times `2026-01-31T23:59:59.000000Z`, decimals without an exponent.
    """

    event_id: str
    occurred_at: str
    type: Kind
    user_id: str
    agent_id: str
    messages: int
    input_tokens: int
    output_tokens: int
    tokens: int
    cost_usd: str | None
    response_time_ms: int | None
    success: bool
    conversation_id: str | None
    model: str | None
    rating: str | None


class Window(NamedTuple):
    """The span of time within which an event is accepted, as canonical text."""

    oldest: str
    newest: str
    days: int

    @classmethod
    def around(cls, now: datetime, accept: timedelta) -> Window:
        """Return the window from `accept` before now to `MAX_AHEAD` after it."""
        return cls(time_text(now - accept), time_text(now + MAX_AHEAD), accept.days)

    def refusal(self, occurred_at: str) -> str | None:
        """Return why a time is not accepted, or None."""
        if occurred_at < self.oldest:
            return f"occurred_at: older than the acceptance window ({self.days} days)"
        if occurred_at > self.newest:
            return f"occurred_at: more than {MAX_AHEAD.seconds // 60} minutes in the future"
        return None


def values_of(event: Mapping[str, Any]) -> Values:
    """Return an event's values in the order of its fields, with the defaults."""
    return tuple(map(event.get, FIELDS, _DEFAULTS))


def refusal(values: Values, window: Window) -> str | None:
    """Return why an event is not accepted although each of its values is valid, or None."""
    if (values[_TYPE] == "rating") != (values[_RATING] is not None):
        return "rating: goes with type rating, and only with it"
    if values[_TOKENS] is None and values[_INPUT] + values[_OUTPUT] > MAX_TOKENS:
        return f"tokens: the sum of input and output tokens must be at most {MAX_TOKENS}"
    return None if values[_OCCURRED_AT] is None else window.refusal(time_text(values[_OCCURRED_AT]))


def record_of(values: Values, entry_key: UUID, position: int, entry_time: datetime) -> Record:
    """Return the ledger row of an accepted event.

    An event without identity or time gets them from its entry, so that they are the same when it is read again.
    """
    event_id, occurred_at, *_ = values
    identity = uuid5(entry_key, str(position)) if event_id is None else identity_of(event_id)
    row = row_of(values, str(identity), time_text(occurred_at or entry_time))
    return Record._make(str(value) if isinstance(value, UUID) else value for value in row)


def row_of(values: Values, event_id: str, occurred_at: str) -> list[Any]:
    """Return the values of an event's `Record`, in which UUIDs need not be text yet."""
    _, _, kind, user, agent, messages, tin, tout, tokens, cost, time, success, conversation, model, rating = values
    tokens = tin + tout if tokens is None else tokens
    row = [event_id, occurred_at, kind, user, agent, messages, tin, tout, tokens, decimal_text(cost), time, success]
    return [*row, conversation, model, decimal_text(rating)]


def identity_of(event_id: UUID | str) -> UUID:
    """Return the UUID of an idempotency key; return a UUID unchanged."""
    return uuid5(KEY_NAMESPACE, event_id) if isinstance(event_id, str) else event_id


def time_text(time: datetime) -> str:
    """Return the canonical text of an aware time, in UTC.

    Where the offset leads beyond the calendar, return the calendar's end on that side, which no window accepts either.
    """
    try:
        time = time.astimezone(UTC)
    except OverflowError:
        time = _LATEST if time.year == _LATEST.year else _EARLIEST
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def explain(error: ValidationError) -> str:
    """Name the wrong fields and the reasons in one line, without the values, which may be secret."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    problems = {_field(item["type"], *item["loc"][:1]): _REASONS.get(item["type"], item["msg"]) for item in items}
    return "; ".join(f"{field}: {message}" for field, message in problems.items())


def _field(problem: str, place: int | str = "event") -> str:
    """Return a field's name from its place in a tuple of values; in a dictionary, any integer may be a key."""
    return FIELDS[place] if isinstance(place, int) and problem != "invalid_key" else str(place)
