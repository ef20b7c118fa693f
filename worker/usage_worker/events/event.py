"""The usage event: its fields, its identity, and the reasons for which it is refused.

`Event` is what an application sends, in any notation of a UUID, a time or a number (see `values`). `Row` holds the same
values in the order and the units of the columns (see `columns`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Required, get_args, get_origin, get_type_hints
from uuid import UUID, uuid5

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from usage_worker.events.columns import (
    COLUMNS,
    DECIMALS,
    MAX_DOLLARS,
    MAX_MESSAGES,
    MAX_MILLISECONDS,
    MAX_MODEL,
    MAX_PROVIDER,
    MAX_RATING,
    MAX_TOKENS,
    NAMES,
    Row,
)
from usage_worker.events.external_ids import AnyId
from usage_worker.events.refusals import Refusal
from usage_worker.events.values import (
    EPOCH,
    Reading,
    read_count,
    read_decimal,
    read_milliseconds,
    read_time,
    read_truth,
    units_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# Namespace of the UUIDv5 (RFC 9562, section 5.5) into which an application's own idempotency key is converted.
KEY_NAMESPACE = UUID("6f1b6bb4-5b0e-5d3c-9a50-0d6f6ff7c1a2")
MAX_AHEAD = timedelta(minutes=5)
# How far clocks may differ, since times decide what is accepted. NTP keeps them within a second.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=1)
# An object with more fields than this is not an event, and a million complaints about unknown fields would say no more.
_MAX_FIELDS = 100
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1) // _MICROSECOND

Kind = Literal["usage", "rating"]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
Messages = Annotated[int, Field(strict=True, ge=0, le=MAX_MESSAGES)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=MAX_MILLISECONDS)]
Money = Annotated[Decimal, Field(strict=True, ge=0, le=MAX_DOLLARS, decimal_places=DECIMALS)]
Stars = Annotated[Decimal, Field(strict=True, ge=0, le=MAX_RATING, decimal_places=DECIMALS)]
COST_TEXT = r"^([0-9]{1,6}(\.[0-9]{1,10})?|1000000(\.0{1,10})?)$"
STARS_TEXT = r"^([0-4](\.[0-9]{1,10})?|5(\.0{1,10})?)$"
Time = Annotated[AwareDatetime, Field(strict=True)]
# PostgreSQL's text cannot hold U+0000, so it is refused here, where the reason can name the field.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Model = Annotated[Text, Field(max_length=MAX_MODEL)]
Provider = Annotated[Text, Field(max_length=MAX_PROVIDER)]
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
    """When it happened; by default the time at which it is published. Must lie within the acceptance window,
    or, in a backfill, on a day that the ledger keeps."""
    type: Annotated[Kind, Reading(default="usage")]
    """`usage` counts a use of the agent, `rating` records the user's rating of it."""
    user_id: Required[Annotated[UUID, AnyId("user")]]
    """The user; with `USAGE_IDS=uuid5` also a whole number or a text of an application's own, like the next two ids."""
    agent_id: Required[Annotated[UUID, AnyId("agent")]]
    """The agent."""
    messages: Annotated[Messages, Reading(read_count, default=1)]
    """Messages exchanged."""
    input_tokens: Annotated[Count, Reading(read_count, default=0)]
    """Tokens sent to the model."""
    output_tokens: Annotated[Count, Reading(read_count, default=0)]
    """Tokens received from the model."""
    tokens: Annotated[Count, Reading(read_count)] | None
    """Tokens in total; by default the sum of input and output tokens, which has the same bounds."""
    cached_input_tokens: Annotated[Count, Reading(read_count)] | None
    """Input tokens that the provider read from its cache; a part of `input_tokens`."""
    cache_write_tokens: Annotated[Count, Reading(read_count)] | None
    """Input tokens that the provider wrote to its cache; a part of `input_tokens`."""
    reasoning_tokens: Annotated[Count, Reading(read_count)] | None
    """Output tokens that the model spent on reasoning; a part of `output_tokens`."""
    cost_usd: Annotated[Money, Reading(read_decimal, canonical=COST_TEXT)] | None
    """Cost in US dollars; where it is unknown, workers with a price list fill in that of `model`."""
    response_time_ms: Annotated[Milliseconds, Reading(read_milliseconds)] | None
    """Time to the complete answer, in milliseconds."""
    success: Annotated[bool, Field(strict=True), Reading(read_truth, default=True)]
    """Whether the agent answered without an error."""
    conversation_id: Annotated[UUID, AnyId("conversation")] | None
    """The conversation; distinct ones are counted."""
    model: Model | None
    """Name of the model; an agent's hourly and daily usage is broken down by model and provider."""
    provider: Provider | None
    """Name of the model's provider."""
    rating: Annotated[Stars, Reading(read_decimal, canonical=STARS_TEXT)] | None
    """The user's rating; required for the type `rating` and refused otherwise."""


EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_types = get_type_hints(Event, include_extras=True)
REQUIRED = frozenset(name for name in NAMES if get_origin(_types[name]) is Required)

# In words that do not depend on the producer's language.
_REASONS = {
    "dict_type": "Input should be an object",
    "string_unicode": "Input should be valid Unicode, without half a surrogate pair",
}

# An event's values in the order of its fields, with the defaults: a tuple is validated in less time than an object.
Values = tuple[Any, ...]
VALUES: TypeAdapter[Values] = TypeAdapter(
    tuple[tuple(get_args(_types[name])[0] if name in REQUIRED else _types[name] for name in NAMES)]  # type: ignore[arg-type,misc]
)
_DEFAULTS = tuple(column.default for column in COLUMNS)
_OCCURRED_AT, _TYPE, _INPUT, _OUTPUT, _TOKENS, _RATING = map(
    NAMES.index, ("occurred_at", "type", "input_tokens", "output_tokens", "tokens", "rating")
)


class Window(NamedTuple):
    """The span of time within which an event is accepted, in microseconds since 1970."""

    oldest: int
    newest: int
    days: int
    limit: str = "the acceptance window"
    """What `days` is the length of."""

    @classmethod
    def around(cls, now: datetime, accept: timedelta) -> Window:
        """Return the window from `accept` before now to `MAX_AHEAD` after it."""
        return cls(microseconds(now - accept), microseconds(now + MAX_AHEAD), accept.days)

    @classmethod
    def of_backfill(cls, now: datetime, retention_days: int) -> Window:
        """Return the window of a backfill: the UTC days that the ledger keeps for at least 24 hours more.

        The partition of a day is dropped when the day is more than `retention_days` ago. What is counted must be in the
        ledger for as long as it may be sent again.
        """
        oldest = (microseconds(now) // _DAY - retention_days + 1) * _DAY
        # Earlier days are not worth a partition, and no such time is written by columns.
        return cls(max(oldest, 0), microseconds(now + MAX_AHEAD), retention_days, "the ledger keeps events")

    def refusal(self, occurred_at: int) -> str | None:
        """Return why a time is not accepted, or None."""
        if occurred_at < self.oldest:
            return Refusal.TOO_OLD.of(self.limit, self.days)
        if occurred_at > self.newest:
            return Refusal.IN_FUTURE.of(MAX_AHEAD.seconds // 60)
        return None


def values_of(event: Mapping[str, Any]) -> Values:
    """Return an event's values in the order of its fields, with the defaults."""
    return tuple(map(event.get, NAMES, _DEFAULTS))


def refusal_of_size(event: object) -> str | None:
    """Return why an object is refused whose fields are not even looked at, or None."""
    if isinstance(event, dict) and len(event) > _MAX_FIELDS:
        return f"event: has {len(event)} fields, more than {_MAX_FIELDS}"
    return None


def refusal(values: Values, window: Window) -> str | None:
    """Return why an event is not accepted although each of its values is valid, or None."""
    is_rating, has_rating = values[_TYPE] == "rating", values[_RATING] is not None
    tokens = values[_INPUT] + values[_OUTPUT] if values[_TOKENS] is None else values[_TOKENS]
    occurred_at = None if values[_OCCURRED_AT] is None else microseconds(values[_OCCURRED_AT])
    return reason_against(occurred_at, tokens, window, is_rating=is_rating, has_rating=has_rating)


def reason_against(
    occurred_at: int | None, tokens: int, window: Window, *, is_rating: bool, has_rating: bool
) -> str | None:
    """Return why an event of these values is not accepted, or None. The time is in microseconds since 1970."""
    if is_rating != has_rating:
        return Refusal.MISPLACED_RATING.text
    if tokens > MAX_TOKENS:
        return Refusal.TOO_MANY_TOKENS.of(MAX_TOKENS)
    return None if occurred_at is None else window.refusal(occurred_at)


def row_of(values: Values, event_id: UUID, occurred_at: int) -> Row:
    """Return an event's row; `occurred_at` is in microseconds since 1970."""
    _, _, *between, cost, time, success, conversation, model, provider, rating = values
    cost, rating = units_of(cost), units_of(rating)
    return (event_id, occurred_at, *between, cost, time, success, conversation, model, provider, rating)


def identity_of(event_id: UUID | str) -> UUID:
    """Return the UUID of an idempotency key; return a UUID unchanged."""
    return uuid5(KEY_NAMESPACE, event_id) if isinstance(event_id, str) else event_id


def microseconds(time: datetime) -> int:
    """Return the microseconds from 1970 to an aware time, which may lie beyond the calendar of UTC."""
    return (time - EPOCH) // _MICROSECOND


def time_at(microseconds: int) -> datetime:
    """Return the time so many microseconds after 1970.

    Raises:
        OverflowError: it lies beyond the calendar.
    """
    return EPOCH + microseconds * _MICROSECOND


def time_text(microseconds: int) -> str:
    """Return a time as `2026-01-31T23:59:59.000000Z`; beyond the calendar, its end on that side."""
    try:
        time = time_at(microseconds)
    except OverflowError:
        time = _LATEST if microseconds > 0 else _EARLIEST
    return time.isoformat(timespec="microseconds")[:26] + "Z"


def explain(error: ValidationError) -> str:
    """Name the wrong fields and the reasons in one line, without the values, which may be secret."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    problems = {_field(item["type"], *item["loc"][:1]): _REASONS.get(item["type"], item["msg"]) for item in items}
    return "; ".join(f"{field}: {message}" for field, message in problems.items())


def _field(problem: str, place: int | str = "event") -> str:
    """Return a field's name from its place in a tuple of values; in a dictionary, any integer may be a key."""
    return NAMES[place] if isinstance(place, int) and problem != "invalid_key" else str(place)
