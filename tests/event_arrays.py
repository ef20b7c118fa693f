"""Events for tests of columns: as plain Python, drawn by hypothesis, and as an array."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from usage_worker.events.columns import (
    COLUMNS,
    KINDS,
    MAX_DOLLARS,
    MAX_MESSAGES,
    MAX_MILLISECONDS,
    MAX_RATING,
    MAX_TOKENS,
    UNIT,
    Form,
)
from usage_worker.ingest.event_array import UNKNOWN, Columns, TextTable, array_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.ingest.event_array import Events

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PlainEvent(NamedTuple):
    """The values of the columns; decimals in units of their last place."""

    event_id: UUID
    occurred_at: datetime
    type: str
    user_id: UUID
    agent_id: UUID
    messages: int = 1
    input_tokens: int = 3
    output_tokens: int = 4
    tokens: int = 7
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: int | None = None
    response_time_ms: int | None = None
    success: bool = True
    conversation_id: UUID | None = None
    model: str | None = None
    provider: str | None = None
    rating: int | None = None


# The nil UUID, the greatest, and those that differ from others in one of their two words.
_ids = st.sampled_from([0, 1, 2**64, 2**64 + 1, 2**127, 2**128 - 1]).map(lambda number: UUID(int=number))
_tokens = st.integers(0, MAX_TOKENS) | st.sampled_from([0, MAX_TOKENS])
# Few different ones, so that some are equal: around midnight, and days apart.
_times = st.builds(
    lambda days, microseconds: MIDNIGHT + timedelta(days=days, microseconds=microseconds),
    st.integers(-1, 1),
    st.integers(-1, 1),
)
_costs = st.integers(0, MAX_DOLLARS * UNIT) | st.sampled_from([0, 1, UNIT - 1, UNIT, MAX_DOLLARS * UNIT])
_texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
# The column of `user_agents` has two decimals.
_ratings = st.sampled_from([0, UNIT // 100, 4 * UNIT, MAX_RATING * UNIT])


# Made once: hypothesis looks through each new strategy before it draws from it.
_events = st.builds(
    PlainEvent,
    event_id=st.uuids(),
    occurred_at=_times,
    type=st.just(KINDS[0]),
    user_id=_ids,
    agent_id=_ids,
    messages=st.integers(0, MAX_MESSAGES),
    input_tokens=_tokens,
    output_tokens=_tokens,
    tokens=_tokens,
    cached_input_tokens=st.none() | _tokens,
    cache_write_tokens=st.none() | _tokens,
    reasoning_tokens=st.none() | _tokens,
    cost_usd=st.none() | _costs,
    response_time_ms=st.none() | st.integers(0, MAX_MILLISECONDS),
    success=st.booleans(),
    conversation_id=st.none() | _ids,
    model=_texts,
    provider=_texts,
    rating=st.none() | st.none() | _ratings,
).map(lambda event: event._replace(type=KINDS[event.rating is not None]))


def lists_of_events(max_size: int = 30) -> st.SearchStrategy[list[PlainEvent]]:
    return st.lists(_events, max_size=max_size, unique_by=lambda event: event.event_id)


def array_from(events: Sequence[PlainEvent], texts: TextTable | None = None) -> Events:
    """Return the events as an array, in their order."""
    numbers = texts or TextTable()
    values: dict[str, Any] = {
        column.name: [_value(getattr(event, column.name), column.form, numbers) for event in events]
        for column in COLUMNS
    }
    for column in COLUMNS:
        if column.form is Form.UUID:
            values[column.name] = b"".join(values[column.name])
    values["has_conversation"] = [event.conversation_id is not None for event in events]
    return array_of([Columns(len(events), values)])


def _value(value: Any, form: Form, texts: TextTable) -> Any:
    match form:
        case Form.UUID:
            return value.bytes if value else bytes(16)
        case Form.TIME:
            return (value - _EPOCH) // timedelta(microseconds=1)
        case Form.KIND:
            return KINDS.index(value)
        case Form.TEXT:
            return texts.numbers([value])[0]
    return UNKNOWN if value is None else value
