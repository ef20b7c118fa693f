"""Whatever the canonical decoder accepts, the full decoder accepts, too, with the same record."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Record, Window, time_text
from usage_worker.events.wire import load, prepare
from usage_worker.ingest.entries import decode
from usage_worker.queue.stream import RawEntry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = Window.around(NOW, timedelta(days=35))

uuids = st.uuids().map(str)
odd_texts = st.sampled_from(["", "x", "a\\b\t\n", "5BD8B2A0-1111-7111-8111-111111111111"])
numbers = st.sampled_from([0, 1, -1, 2**63 - 1, 2**63, 1.5, True, None, "7"])
decimals = st.sampled_from(
    ["0", "1.5", "1000000", "1000000.1", "999999.9999999999", "1E-7", "-1", "5.0", "5.1", 0.1, None]
)
times = st.sampled_from(
    [time_text(NOW), "2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", "2020-01-01T00:00:00.000000Z"]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["usage", "rating", "click"]),
    "event_id": uuids | odd_texts,
    "occurred_at": times | odd_texts,
    "user_id": uuids | odd_texts,
    "agent_id": uuids | odd_texts,
    "messages": numbers,
    "input_tokens": numbers,
    "output_tokens": numbers,
    "tokens": numbers,
    "cost_usd": decimals,
    "response_time_ms": numbers,
    "success": st.booleans() | numbers,
    "conversation_id": uuids | odd_texts,
    "model": odd_texts | st.text(max_size=5),
    "rating": decimals,
    "colour": odd_texts,
}
required = {name: FIELDS[name] for name in ("event_id", "occurred_at", "user_id", "agent_id")}
optional = {name: values for name, values in FIELDS.items() if name not in {*required, "colour"}}


def _row(event: dict[str, Any]) -> list[Any]:
    """Return the event with all defaults, in the order of the columns of the ledger."""
    filled: dict[str, Any] = dict.fromkeys(("input_tokens", "output_tokens"), 0)
    filled |= {"type": "usage", "messages": 1, "success": True} | event
    if filled.get("tokens") is None:
        parts = filled["input_tokens"], filled["output_tokens"]
        filled["tokens"] = sum(parts) if all(type(part) is int for part in parts) else None
    return [filled.get(name) for name in Record._fields]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries(required, optional=optional))
def test_both_decoders_return_same_record(event: dict[str, Any]) -> None:
    body = json.dumps([_row(event)]).encode()
    try:
        quick = load(body)
    except ValidationError:
        return  # not canonical: only the full decoder accepts it
    long = decode("s", RawEntry("1-0", {b"v": b"1", b"events": json.dumps([event]).encode()}), WINDOW)
    short = decode("s", RawEntry("1-0", {b"v": b"1", b"events": body}), WINDOW)
    beside = decode("s", RawEntry("1-0", {b"v": b"1", b"events": body[:-1] + b", 0]"}), WINDOW)
    assert beside.records == short.records, "a bad neighbour changed the event"
    if short.dead_letters:
        assert [dead_letter.reason for dead_letter in short.dead_letters] == [
            dead_letter.reason for dead_letter in long.dead_letters
        ]
    else:
        assert short.records == quick == long.records[:1]


pair = {"user_id": uuids, "agent_id": uuids}
others = {name: values for name, values in FIELDS.items() if name not in pair}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries(pair, optional=others))
def test_publisher_output_is_canonical(fields: dict[str, Any]) -> None:
    try:
        prepared = prepare(fields, WINDOW)
    except EventRefusedError:
        return
    (record,) = load(b"[" + prepared.body + b"]")
    assert record.event_id == prepared.event_id
    assert record.user_id == str(prepared.user_id)


@pytest.mark.parametrize(
    "time", ["2026-02-29T24:00:00.000000Z", "2026-02-28T23:59:60.000000Z", "2026-13-01T00:00:00.000000Z"]
)
def test_times_read_as_other_day_by_postgresql_are_not_canonical(time: str) -> None:
    """The day of a record is the beginning of its time; PostgreSQL must agree."""
    event = {"event_id": "5bd8b2a0-1111-7111-8111-111111111111", "occurred_at": time}
    ids = dict.fromkeys(("user_id", "agent_id"), event["event_id"])
    with pytest.raises(ValidationError):
        load(json.dumps([_row(event | ids)]).encode())
