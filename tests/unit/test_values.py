"""The table of values: each line goes through every entry point, and all of them must agree."""

from __future__ import annotations

import json
import re
from decimal import ROUND_DOWN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.entry_points import (
    ENTRY_ID,
    GIVEN,
    NOW,
    PAIR,
    SECONDS,
    WINDOW,
    decode_entries,
    outcomes,
    published,
    tracked,
)
from usage_worker.errors import EventRefusedError
from usage_worker.events.values import decimal_of, read_json, write_json
from usage_worker.events.wire import prepare, write_columns
from usage_worker.queue.entry import RawEntry

COUNT = "valid integer"
DECIMAL = "cost_usd: Input should be a valid decimal"
LENGTH = "a number may have at most 1000 characters"
NUMBER = "finite number"
MOST = "less than or equal to"
LEAST = "greater than or equal to"
OUTSIDE = "occurred_at: (outside the|older than the|more than 5)"
# Field, JSON of a value, and what it becomes, or (a text in a tuple) why it is refused.
TABLE: list[tuple[str, str, Any]] = [
    ("input_tokens", "812", 812),
    ("input_tokens", "812.0", 812),
    ("input_tokens", "8.12e2", 812),
    ("input_tokens", "8.12E+02", 812),
    ("input_tokens", '"812e0"', 812),
    ("input_tokens", '"81200e-002"', 812),
    ("input_tokens", '"812"', 812),
    ("input_tokens", '"812.0"', 812),
    ("input_tokens", "-0.0", 0),
    ("input_tokens", '"-0"', 0),
    ("input_tokens", "1000000000000", 10**12),
    ("input_tokens", "1e12", 10**12),
    ("input_tokens", "0e-999999999", 0),
    ("input_tokens", "0e99999999999999999999", 0),
    ("input_tokens", "null", 0),
    ("output_tokens", "null", 0),
    ("messages", "null", 1),
    ("messages", "2.0", 2),
    ("tokens", "null", 0),
    ("tokens", "5.0", 5),
    ("input_tokens", "812.5", ("fractional part",)),
    ("input_tokens", '"1e-999999999"', ("fractional part",)),
    ("input_tokens", "1000000000001", (MOST,)),
    ("tokens", "1000000000001", (MOST,)),
    ("tokens", "9223372036854775807", (MOST,)),
    ("input_tokens", '"1e999999999"', (MOST,)),
    ("input_tokens", "1" + 300 * "0", (MOST,)),
    ("input_tokens", "-1", (LEAST,)),
    ("input_tokens", "-1e30", (LEAST,)),
    ("messages", "1000001", (MOST,)),
    ("input_tokens", "true", (COUNT,)),
    ("tokens", "false", (COUNT,)),
    ("messages", "true", (COUNT,)),
    ("input_tokens", "NaN", (NUMBER,)),
    ("input_tokens", "Infinity", (NUMBER,)),
    *(
        ("input_tokens", f'"{text}"', (COUNT,))
        for text in (
            "x",
            " 8",
            "8 ",
            "+8",
            "8_1",
            "0x8",
            "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}",
            "\N{ARABIC-INDIC DIGIT THREE}",
            "1e",
            ".",
        )
    ),
    ("input_tokens", f'"{2_000 * "9"}"', (LENGTH,)),
    ("input_tokens", "[1]", (COUNT,)),
    ("input_tokens", '{"a": 1}', (COUNT,)),
    ("cost_usd", "0.30000000000000004", Decimal("0.3")),
    ("cost_usd", "3.0000000000000004e-05", Decimal("0.00003")),
    ("cost_usd", '"0.00000000015"', Decimal("0.0000000002")),
    ("cost_usd", '"0.00000000025"', Decimal("0.0000000002")),
    ("cost_usd", '"0.000000000250001"', Decimal("0.0000000003")),
    ("cost_usd", "1", 1),
    ("cost_usd", '"1.50"', Decimal("1.5")),
    ("cost_usd", '".5"', Decimal("0.5")),
    ("cost_usd", '"0E-999999999"', 0),
    ("cost_usd", '"0E+999999999"', 0),
    ("cost_usd", '"1E-999999999"', 0),
    ("cost_usd", '"1E-99999999999999999999"', 0),
    ("cost_usd", "-0.0", 0),
    ("cost_usd", '"-0"', 0),
    ("cost_usd", '"0.' + 900 * "0" + '1"', 0),
    ("cost_usd", '"1000000.00000000005"', 1_000_000),
    ("cost_usd", "null", None),
    ("cost_usd", "NaN", (NUMBER,)),
    ("cost_usd", '"NaN"', (NUMBER,)),
    ("cost_usd", "-Infinity", (NUMBER,)),
    ("cost_usd", '"inf"', (NUMBER,)),
    ("cost_usd", "-0.1", (LEAST,)),
    ("cost_usd", "1000000.01", (MOST,)),
    ("cost_usd", '"1e400"', (MOST,)),
    ("cost_usd", '"1E+99999999999999999999"', (MOST,)),
    ("cost_usd", "true", (DECIMAL,)),
    *(
        ("cost_usd", f'"{text}"', (DECIMAL,))
        for text in (
            "\N{FULLWIDTH DIGIT ZERO}.\N{FULLWIDTH DIGIT FIVE}",
            "\N{ARABIC-INDIC DIGIT ZERO}.\N{ARABIC-INDIC DIGIT FIVE}",
            " 1",
            "1 ",
            "+1",
            "1_0",
            "0x1",
            "$1",
            "1,5",
        )
    ),
    ("cost_usd", '"0.' + 2_000 * "0" + '1"', (LENGTH,)),
    ("cost_usd", f'"{1_001 * "9"}"', (LENGTH,)),
    ("response_time_ms", "812.5", 812),
    ("response_time_ms", "813.5", 814),
    ("response_time_ms", "812.50001", 813),
    ("response_time_ms", '"12.7"', 13),
    ("response_time_ms", "-0.4", 0),
    ("response_time_ms", "86400000.4", 86_400_000),
    ("response_time_ms", "null", None),
    ("response_time_ms", "86400001", (MOST,)),
    ("response_time_ms", "-1", (LEAST,)),
    ("response_time_ms", "1e300", (MOST,)),
    ("response_time_ms", "true", (COUNT,)),
    ("response_time_ms", "NaN", (NUMBER,)),
    *(("success", text, True) for text in ("true", "1", "1.00", "1e0", '"true"', '"True"', '"1"', "null")),
    *(("success", text, False) for text in ("false", "0", "-0.00", '"false"', '"FALSE"', '"0"')),
    *(
        ("success", text, ("valid boolean",))
        for text in ("2", '"yes"', '"t"', '"\N{FULLWIDTH DIGIT ONE}"', "[]", "0.5", 300 * "1")
    ),
    ("type", "null", "usage"),
    ("type", '"Usage"', ("type: ",)),
    ("type", "1", ("type: ",)),
    ("occurred_at", f"{SECONDS}", "2026-03-01T12:00:00.000000Z"),
    ("occurred_at", f"{SECONDS}.25", "2026-03-01T12:00:00.250000Z"),
    ("occurred_at", f'"{SECONDS}.1234565"', "2026-03-01T12:00:00.123456Z"),
    ("occurred_at", '"2026-03-01T13:00:00+01:00"', "2026-03-01T12:00:00.000000Z"),
    ("occurred_at", '"2026-03-01 12:00:00.1234567z"', "2026-03-01T12:00:00.123456Z"),
    ("occurred_at", f"{SECONDS}000", ("seconds",)),
    ("occurred_at", f'"{SECONDS}000"', ("seconds",)),
    ("occurred_at", f"{SECONDS}000000", ("seconds",)),
    ("occurred_at", '"1e999999999"', ("seconds",)),
    ("occurred_at", "0", (OUTSIDE,)),
    ("occurred_at", "-1e11", (OUTSIDE,)),
    ("occurred_at", '"9999-12-31T23:59:59-12:00"', (OUTSIDE,)),
    ("occurred_at", '"0001-01-01T00:00:00+01:00"', (OUTSIDE,)),
    ("occurred_at", '"2026-03-01T12:00:00"', ("time ?zone",)),
    ("occurred_at", '"2026-03-01"', ("time ?zone",)),
    *(
        ("occurred_at", text, ("occurred_at: ",))
        for text in (
            '"soon"',
            "true",
            "NaN",
            '"\N{FULLWIDTH DIGIT TWO}026-03-01T12:00:00Z"',
        )
    ),
    *(("occurred_at", text, ("occurred_at: ",)) for text in ('"2026-02-29T12:00:00Z"', '"0000-01-01T00:00:00Z"', "[]")),
    ("model", '"123456789012345678901"', "123456789012345678901"),
    ("model", "123456789012345678901", ("valid string",)),
    ("model", "1.5", ("valid string",)),
    ("model", "true", ("valid string",)),
    ("event_id", "1.5", ("event_id: ",)),
    ("event_id", "123456789012345678901", ("event_id: ",)),
    ("user_id", "null", ("user_id: ",)),
    ("agent_id", "5", ("agent_id: ",)),
    ("conversation_id", "null", None),
    ("conversation_id", '"\N{FULLWIDTH DIGIT FIVE}bd8b2a0-1111-7111-8111-111111111111"', ("conversation_id: ",)),
]
RATINGS: list[tuple[str, Any]] = [
    ("4", 4),
    ("4.25", Decimal("4.25")),
    ('"4.5"', Decimal("4.5")),
    ("4.00000000005", Decimal(4)),
    ("5.00000000005", Decimal(5)),
    ("-0.0", 0),
    ("true", ("rating: Input should be a valid decimal",)),
    ("null", ("rating: goes with type rating",)),
    ("5.1", (MOST,)),
    ("NaN", (NUMBER,)),
    ('"\N{FULLWIDTH DIGIT FOUR}"', ("rating: Input should be a valid decimal",)),
    ('"five"', ("rating: Input should be a valid decimal",)),
]


def agree(field: str, expected: Any, results: dict[str, Any]) -> None:
    for name, result in results.items():
        if isinstance(expected, tuple):
            assert isinstance(result, tuple), (name, result)
            assert re.search(expected[0], result[0]), (name, result)
        elif field in ("cost_usd", "rating") and expected is not None:
            assert Decimal(result) == expected, (name, result)
            assert "E" not in result
            assert len(result) <= 18
        else:
            assert (result, type(result)) == (expected, type(expected)), name


@pytest.mark.parametrize(("field", "value", "expected"), TABLE, ids=lambda it: str(it)[:40])
def test_every_entry_point_agrees(field: str, value: str, expected: Any) -> None:
    agree(field, expected, dict(outcomes(field, value)))


@pytest.mark.parametrize(("value", "expected"), RATINGS, ids=lambda it: str(it)[:40])
def test_every_entry_point_agrees_on_ratings(value: str, expected: Any) -> None:
    results = dict(outcomes("rating", value, type="rating"))
    text = "{" + json.dumps({**GIVEN, "type": "rating"})[1:-1] + f', "rating": {value}' + "}"
    try:
        results["rate"] = tracked(text).rating
    except EventRefusedError as error:
        results["rate"] = (str(error),)
    agree("rating", expected, results)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("cost_usd", Decimal("0.1000000000000000055511151231257827"), "0.1"),
        ("cost_usd", Decimal("0.10000000000000"), "0.1"),
        ("cost_usd", Decimal("1E+3"), "1000"),
        ("cost_usd", Fraction(1, 3), "0.3333333333"),
        ("cost_usd", Fraction(10**50 + 1, 10**51), "0.1"),
        ("cost_usd", Decimal("0E-999999999"), "0"),
        ("cost_usd", Decimal("-0"), "0"),
        ("input_tokens", Decimal("812.00"), 812),
        ("input_tokens", Fraction(6, 3), 2),
        ("response_time_ms", Fraction(25, 2), 12),
        ("occurred_at", Decimal(SECONDS) + Decimal("0.5"), "2026-03-01T12:00:00.500000Z"),
        ("occurred_at", NOW, "2026-03-01T12:00:00.000000Z"),
    ],
)
def test_numbers_of_applications_are_read(field: str, value: Any, expected: Any) -> None:
    with localcontext() as context:
        # An application's arithmetic is its own.
        context.prec, context.rounding = 2, ROUND_DOWN
        assert getattr(published(prepare({**GIVEN, field: value}, WINDOW)), field) == expected


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("input_tokens", 10**5_000, MOST),
        ("input_tokens", -(10**5_000), LEAST),
        ("cost_usd", Decimal("sNaN"), NUMBER),
        ("cost_usd", Decimal("1E+999999999"), MOST),
        ("cost_usd", Fraction(10**5_000), MOST),
        ("response_time_ms", float("nan"), NUMBER),
        ("input_tokens", 1j, COUNT),
        ("occurred_at", NOW.date(), "occurred_at: "),
        ("occurred_at", NOW.replace(tzinfo=None), "timezone"),
        ("occurred_at", float("inf"), "occurred_at: "),
        ("success", 10**5_000, "success|ValueError"),
    ],
    ids=lambda it: type(it).__name__,
)
def test_other_objects_are_refused(field: str, value: Any, reason: str) -> None:
    with pytest.raises(EventRefusedError, match=reason):
        prepare({**GIVEN, field: value}, WINDOW)


numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.decimals(),
    st.fractions(),
    st.from_regex(r"\A-?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,12})?\Z"),
    st.text(max_size=5),
)


@given(st.sampled_from(["input_tokens", "messages", "cost_usd", "response_time_ms", "occurred_at", "success"]), numbers)
def test_any_number_is_read_or_refused(field: str, value: Any) -> None:
    try:
        event = prepare({**GIVEN, field: value}, WINDOW)
    except EventRefusedError:
        return
    assert len(write_columns(event.row)) < 1_000
    published(event)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values)
def test_refused_event_is_written_as_it_was_read(value: Any) -> None:
    text = json.dumps(value)
    assert read_json(write_json(read_json(text))) == read_json(text)
    assert json.loads(write_json(read_json(text))) == value


def test_refused_event_keeps_its_numbers() -> None:
    text = '{"model": 1234567890123456789012345678901234567890, "cost_usd": 0.10000000000000000000000000000000000001}'
    assert write_json(read_json(text)) == text


def test_nested_values_are_refused_without_their_neighbours() -> None:
    deep = 900 * "[" + 900 * "]"
    body = f'[{{"user_id": {deep}}}, {json.dumps(PAIR)}]'.encode()
    (entry,) = decode_entries([RawEntry(ENTRY_ID, {b"v": b"1", b"events": body})], WINDOW).entries
    assert (entry.events["position"].tolist(), [letter.position for letter in entry.dead_letters]) == ([1], [0])


@given(
    st.from_regex(
        r"\A-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,5})?\Z", alphabet=st.characters(codec="ascii")
    )
)
def test_every_number_of_json_is_read_exactly(text: str) -> None:
    assert decimal_of(text.strip()) == Decimal(text.strip())


simple = (
    st.floats()
    | st.integers(-10, 2**53)
    | st.booleans()
    | st.none()
    | st.text(alphabet="0123456789eE+-. _x", max_size=6)
)


@given(st.sampled_from(["messages", "tokens", "cost_usd", "response_time_ms", "success", "occurred_at"]), simple)
def test_entry_points_agree_on_any_value(field: str, value: Any) -> None:
    assume((field, value) != ("occurred_at", None))  # now, which differs
    results = dict(outcomes(field, json.dumps(value)))
    if value == "":
        del results["CSV"]  # an empty cell is null
    if field == "cost_usd":
        results = {name: Decimal(it) if isinstance(it, str) else it for name, it in results.items()}
    distinct = {("refused",) if isinstance(it, tuple) else it for it in results.values()}
    assert len(distinct) == 1, results
