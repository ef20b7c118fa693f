"""What the publisher writes: the short way of an event equals the long one, and columns hold what the rows hold."""

from __future__ import annotations

import decimal
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils import uuid7

from usage_worker.errors import EventRefusedError
from usage_worker.events.columns import COLUMNS, NAMES, Form
from usage_worker.events.event import Window, values_of
from usage_worker.events.wire import exact_row, prepare, prepare_values, write_columns

WINDOW = Window.around(datetime.now(UTC), timedelta(days=35))
PAIR = {"user_id": UUID(int=1), "agent_id": UUID(int=2)}
EXACT = (int, str, bool, type(None))


class Text(str):
    """A text of an application's own."""

    __slots__ = ()


class OwnUuid(UUID):
    """An id of an application's own, which cannot be written."""

    @property
    def hex(self) -> str:
        raise RuntimeError("hex")


class OwnInt(int):
    """A number of an application's own, which cannot be written."""

    def to_bytes(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError("to_bytes")


class Size(IntEnum):
    """A number of an application's own."""

    SMALL = 1


ids = (
    st.uuids()
    | st.uuids().map(str)
    | st.sampled_from([OwnUuid(int=7), UUID(int=OwnInt(7)), uuid7(), None, "x", Text(uuid4())])
)
numbers = st.integers(0, 2_000) | st.sampled_from(
    [-1, 10**6, 10**6 + 1, 86_400_000, 86_400_001, 10**12, 10**12 + 1, 2**63, 1.0, 1.5, True, None, "7", Size.SMALL]
)
costs = (
    st.decimals()
    | st.decimals(0, 1_000_000, places=10)
    | st.decimals(0, 1, places=12)
    | st.from_regex(r"[0-9]{0,8}\.?[0-9]{0,12}", fullmatch=True)
    | st.sampled_from([None, 0.1, 3, "-0", "1e3", "\u0663", "1000000.0", "1000000.0000000001", Decimal("1E+999999")])
)
texts = st.text(max_size=5) | st.sampled_from(
    [None, "m" * 100, "m" * 101, "m" * 200, "m" * 201, "a\0", "\ud83d", Text("x"), 7]
)
USE: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["usage", "rating", "click", Text("usage")]),
    "user_id": ids,
    "agent_id": ids,
    "messages": numbers,
    "input_tokens": numbers,
    "output_tokens": numbers,
    "tokens": numbers,
    "cached_input_tokens": numbers,
    "cache_write_tokens": numbers,
    "reasoning_tokens": numbers,
    "cost_usd": costs,
    "response_time_ms": numbers,
    "success": st.booleans() | numbers,
    "conversation_id": ids,
    "model": texts,
    "provider": texts,
    "rating": st.none() | costs,
}


def without_identity(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[2:]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=USE))
def test_short_way_equals_long_way(fields: dict[str, Any]) -> None:
    values = values_of(PAIR | fields)
    short = exact_row(values)
    try:
        long = prepare_values(values, WINDOW)
    except EventRefusedError:
        assert short is None
        return
    assert all(type(value) in EXACT for value in long.row)
    if short is not None:
        assert without_identity(short) == without_identity(long.row)
        assert list(map(type, short)) == list(map(type, long.row))
        assert not long.time_is_ours


def test_clean_event_goes_the_short_way() -> None:
    counts = dict.fromkeys(("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "tokens"), 5)
    texts = {"model": "large", "provider": "us", "cost_usd": Decimal("0.0031"), "conversation_id": uuid4()}
    assert exact_row(values_of(PAIR | counts | texts | {"response_time_ms": 3})) is not None


@pytest.mark.parametrize("name", ["event_id", "occurred_at"])
def test_given_identity_and_time_go_the_long_way(name: str) -> None:
    given = {"event_id": UUID(int=3), "occurred_at": datetime.now(UTC)}[name]
    assert exact_row(values_of(PAIR | {name: given})) is None


def test_decimal_context_of_the_application_changes_nothing() -> None:
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_UP):
        for cost in (Decimal("123456.7890123456"), "123456.7890123456"):
            assert prepare({**PAIR, "cost_usd": cost}, WINDOW).row[NAMES.index("cost_usd")] == 1_234_567_890_123_456


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.fixed_dictionaries({}, optional=USE), max_size=6))
def test_columns_hold_the_rows(events: list[dict[str, Any]]) -> None:
    rows = []
    for fields in [*events, {}]:
        try:
            rows.append(prepare(PAIR | fields, WINDOW).row)
        except EventRefusedError:
            continue
    columns = json.loads(write_columns([value for row in rows for value in row]))
    assert columns.keys() <= set(NAMES)
    for number, column in enumerate(COLUMNS):
        expected = values = [row[number] for row in rows]
        if column.name == "event_id":
            expected = [UUID(str(value)).hex for value in values]
        elif column.form is Form.UUID:
            expected = [value if value is None else UUID(int=value).hex for value in values]
        assert columns.get(column.name, [column.default] * len(rows)) == expected
        assert (column.name in columns) == any(value != column.default for value in values)


@pytest.mark.parametrize("name", ["event_id", "user_id", "agent_id", "conversation_id"])
@pytest.mark.parametrize("number", [-5, 2**128, 2**200])
def test_uuid_with_a_number_out_of_range_is_refused(name: str, number: int) -> None:
    broken = uuid4()
    object.__setattr__(broken, "int", number)
    fields = {"user_id": uuid4(), "agent_id": uuid4(), name: broken}
    assert exact_row(values_of(fields)) is None
    with pytest.raises(EventRefusedError):
        prepare(fields, WINDOW)


@pytest.mark.parametrize("name", ["user_id", "agent_id", "conversation_id"])
def test_uuid_that_was_never_initialised_is_refused(name: str) -> None:
    fields = {**PAIR, name: UUID.__new__(UUID)}
    with pytest.raises(AttributeError):
        exact_row(values_of(fields))
    with pytest.raises(EventRefusedError):
        prepare(fields, WINDOW)


def test_nil_conversation_is_a_conversation() -> None:
    place = NAMES.index("conversation_id")
    rows = [exact_row(values_of({**PAIR, "conversation_id": given})) for given in (UUID(int=0), None)]
    assert [row[place] for row in rows if row] == [0, None]


def test_object_with_too_many_fields_is_refused_without_a_look_at_them() -> None:
    fields = PAIR | dict.fromkeys(map(str, range(200_000)), 0)
    with pytest.raises(EventRefusedError, match="event: has 200002 fields"):
        prepare(fields, WINDOW)
