"""Dead letters become events again, repaired or unchanged."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from tests.unit.entry_points import counted
from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Window
from usage_worker.events.wire import write_columns
from usage_worker.maintenance.dead_letters import RepairEdits
from usage_worker.queue.letter_events import DeadLetterRow, restore

ENTERED = datetime(2026, 1, 31, 12, tzinfo=UTC)
WINDOW = Window.around(ENTERED + timedelta(minutes=1), timedelta(days=35))
KEY = UUID(int=1)
USER, AGENT = str(uuid4()), str(uuid4())


def dead_letter(payload: object, **columns: Any) -> DeadLetterRow:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    entry_id = f"{int(ENTERED.timestamp() * 1000)}-0"
    row = {"id": 7, "entry_key": KEY, "position": 3, "stream": "usage:events:{0}", "entry_id": entry_id, "events": 1}
    row |= {"payload": text}
    return row | {"created_at": ENTERED + timedelta(seconds=9)} | columns


def event(**fields: Any) -> dict[str, Any]:
    return {"user_id": USER, "agent_id": AGENT, **fields}


def records(row: DeadLetterRow, edits: RepairEdits = RepairEdits()) -> list[Any]:  # noqa: B008 - frozen
    return [counted(write_columns(prepared.row), b"2") for prepared in edits.events(row, WINDOW)]


def test_event_without_identity_and_time_gets_both_from_its_entry() -> None:
    (record,) = records(dead_letter(event(messages=2)))
    assert record.event_id == str(uuid5(KEY, "3"))
    assert record.occurred_at == "2026-01-31T12:00:00.000000Z"
    assert record.messages == 2


def test_own_identity_and_time_are_kept() -> None:
    (record,) = records(dead_letter(event(event_id=USER, occurred_at="2026-01-31T11:00:00Z")))
    assert (record.event_id, record.occurred_at) == (USER, "2026-01-31T11:00:00.000000Z")


def test_dead_letter_time_replaces_invalid_entry_id() -> None:
    (record,) = records(dead_letter(event(), entry_id="made up"))
    assert record.occurred_at == "2026-01-31T12:00:09.000000Z"


def test_fields_are_set_and_removed() -> None:
    row = dead_letter(event(colour="red", input_tokens=-5, model="m"))
    with pytest.raises(EventRefusedError, match="colour"):
        records(row)
    edits = RepairEdits({"input_tokens": "7"}, frozenset({"colour", "model"}))
    (record,) = records(row, edits)
    assert (record.input_tokens, record.model) == (7, None)


def test_body_replaces_whole_entry() -> None:
    row = dead_letter("[{", events=2, position=0)
    with pytest.raises(EventRefusedError, match="--body"):
        records(row)
    first, second = records(row, RepairEdits(body=json.dumps([event(), event(messages=4)])))
    assert [first.event_id, second.event_id] == [str(uuid5(KEY, "0")), str(uuid5(KEY, "1"))]
    assert second.messages == 4


def test_decimals_are_kept_exactly() -> None:
    (record,) = records(dead_letter(json.dumps(event())[:-1] + ', "cost_usd": 0.1000000001}'))
    assert record.cost_usd == "0.1000000001"


@pytest.mark.parametrize("payload", ["{", "[]", "7", '["x"]', "[" * 100_000])
def test_payload_that_is_not_an_event_is_refused(payload: str) -> None:
    with pytest.raises(EventRefusedError, match="--body"):
        records(dead_letter(payload))


@pytest.mark.parametrize(
    "fields", [{"events": "zlib:AAAA"}, {"events": "[]"}, {"events": [{}], "positions": 5}, {"events": ["x"]}]
)
def test_event_that_looks_like_an_entry_is_an_event(fields: dict[str, Any]) -> None:
    row = dead_letter(event(**fields))
    with pytest.raises(EventRefusedError, match="events: "):
        records(row)
    (record,) = records(row, RepairEdits(dropped=frozenset(fields)))
    assert record.event_id == str(uuid5(KEY, "3"))
    with pytest.raises(ValueError, match=r"whole entry|compression"):
        restore(row)


def test_more_events_than_places_do_not_take_those_of_neighbours() -> None:
    """The event at the next position was counted, and would make another one a duplicate."""
    body = json.dumps([event()] * 3)
    expected = [str(uuid5(KEY, place)) for place in ("3", "3.1", "3.2")]
    assert [record.event_id for record in records(dead_letter(body))] == expected
    assert [record.event_id for record in records(dead_letter("{"), RepairEdits(body=body))] == expected


def test_list_in_place_of_an_event_does_not_take_the_places_of_its_neighbours() -> None:
    """It looks like the body of an entry."""
    row = dead_letter([event(), event()], position=0)
    assert [record.event_id for record in records(row)] == [str(uuid5(KEY, place)) for place in ("0", "0.1")]


def test_body_of_a_shared_dead_letter_takes_its_positions() -> None:
    row = dead_letter({"positions": [3, 5], "events": [{}, {}]}, events=2)
    found = records(row, RepairEdits(body=json.dumps([event()] * 3)))
    assert [record.event_id for record in found] == [str(uuid5(KEY, place)) for place in ("3", "5", "3.1")]
