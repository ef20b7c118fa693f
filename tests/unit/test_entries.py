"""Decoding a stream entry: records, dead letters with their reasons, and the identity of both."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from usage_worker.events.event import Record, Window
from usage_worker.ingest.entries import MAX_LETTERS, DecodedEntry, decode
from usage_worker.queue.stream import MAX_DECLARED_DIGITS, Pack, RawEntry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = Window.around(NOW, timedelta(days=35))
ENTRY_ID = f"{int(NOW.timestamp() * 1000)}-0"
PAIR = {"user_id": "11111111-1111-4111-8111-111111111111", "agent_id": "22222222-2222-4222-8222-222222222222"}
KEY = UUID("33333333-3333-4333-8333-333333333333")


def raw(body: bytes | None, entry_id: str = ENTRY_ID, **fields: bytes) -> RawEntry:
    named = {"v": b"1", **fields} | ({} if body is None else {"events": body})
    return RawEntry(entry_id, {name.encode(): value for name, value in named.items()})


def decoded(*events: Any, entry_id: str = ENTRY_ID, **fields: bytes) -> DecodedEntry:
    return decode("stream", raw(json.dumps(events).encode(), entry_id, **fields), WINDOW)


def reasons(entry: DecodedEntry) -> list[str]:
    return [dead_letter.reason for dead_letter in entry.dead_letters]


def test_defaults_are_filled_in() -> None:
    (record,) = decoded(PAIR).records
    assert (record.type, record.messages, record.tokens, record.success) == ("usage", 1, 0, True)
    assert record.occurred_at == "2026-03-01T12:00:00.000000Z"


def test_event_without_id_gets_same_id_at_every_delivery() -> None:
    first, second = decoded(PAIR, PAIR), decoded(PAIR, PAIR)
    assert first.records == second.records
    assert first.anonymous == {record.event_id for record in first.records}
    assert len(first.anonymous) == 2


def test_records_with_a_key_and_no_time_of_the_application_are_marked() -> None:
    keyed, timed = {**PAIR, "event_id": "order-7"}, {**PAIR, "event_id": "8", "occurred_at": "2026-03-01T12:00:00Z"}
    entry = decoded(PAIR, keyed, timed)
    assert entry.untimed == {1}
    assert ["occurred_at" in json.loads(entry.payload(position, entry.records[position])) for position in range(3)] == [
        True,
        False,
        True,
    ]
    assert decoded(PAIR, keyed, timed, times=b"publisher").untimed == {1, 2}
    assert decoded(PAIR, keyed, timed, times=b"others").untimed == {1}


def test_rows_of_a_marked_pack_are_marked() -> None:
    row = [str(KEY), "2026-03-01T12:00:00.000000Z", "usage", *PAIR.values(), 1, 0, 0, 0, None, None, True]
    good, bad = [*row, None, None, None], [*row, None, 5, None]
    assert decoded(good, good, times=b"publisher").untimed == {0, 1}
    assert decoded(good, bad, good, times=b"publisher").untimed == {0, 2}
    assert decoded(good, bad, good).untimed == set()


def test_pack_key_identifies_entry_at_any_position() -> None:
    key = str(KEY).encode()
    assert decoded(PAIR, id=key).key == decoded(PAIR, entry_id="1772366400001-0", id=key).key == KEY


@pytest.mark.parametrize("fields", [{}, {"id": b"not a UUID"}, {"id": b"\xff"}])
def test_entry_without_valid_key_is_identified_by_position(fields: dict[str, bytes]) -> None:
    here, again, elsewhere = (
        decode("stream", raw(b"[]", place, **fields), WINDOW).key for place in (ENTRY_ID, ENTRY_ID, "1772366400001-0")
    )
    assert here == again != elsewhere


def test_bad_event_does_not_move_positions_of_others() -> None:
    entry = decoded(PAIR, {**PAIR, "messages": -1}, PAIR)
    assert entry.positions == [0, 2]
    (dead_letter,) = entry.dead_letters
    assert (dead_letter.position, dead_letter.events) == (1, 1)
    assert dead_letter.reason.startswith("messages: ")
    assert json.loads(dead_letter.payload) == {**PAIR, "messages": -1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"occurred_at": "2025-01-01T00:00:00Z"}, "occurred_at: older than the acceptance window (35 days)"),
        ({"occurred_at": "2026-03-01T12:06:00Z"}, "occurred_at: more than 5 minutes in the future"),
        ({"rating": "4"}, "rating: "),
        ({"type": "rating"}, "rating: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_refused_events_name_reason(changes: dict[str, str], reason: str) -> None:
    entry = decoded({**PAIR, **changes})
    assert entry.records == []
    assert reasons(entry)[0].startswith(reason)


def test_canonical_events_outside_window_are_refused() -> None:
    row = [str(KEY), "2025-01-01T00:00:00.000000Z", "usage", *PAIR.values(), 1, 0, 0, 0, None, None, True]
    entry = decoded([*row, None, None, None])
    assert reasons(entry) == ["occurred_at: older than the acceptance window (35 days)"]
    assert json.loads(entry.dead_letters[0].payload)["event_id"] == str(KEY)


def test_entry_time_must_be_in_window_if_event_has_no_time() -> None:
    assert "by the entry's id" in reasons(decoded(PAIR, entry_id="1-0"))[0]


def test_decimals_do_not_pass_through_float() -> None:
    body = json.dumps([PAIR])[:-2] + ', "cost_usd": 999999.9999990004}]'
    assert decode("stream", raw(body.encode()), WINDOW).records[0].cost_usd == "999999.9999990004"


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[]", b"\xff", b"null", b"[" * 100_000, b"9" * 5_000])
def test_unreadable_body_becomes_one_dead_letter_for_all_declared_events(body: bytes) -> None:
    entry = decode("stream", raw(body, n=b"7"), WINDOW)
    assert entry.records == []
    (dead_letter,) = entry.dead_letters
    assert (dead_letter.position, dead_letter.events) == (0, 7)
    assert dead_letter.reason.startswith("events: ")


def test_entry_of_another_version_is_kept_whole() -> None:
    entry = decode("stream", raw(None, v=b"2", colour=b"\xff"), WINDOW)
    (dead_letter,) = entry.dead_letters
    assert dead_letter.reason == "v: the entry's version must be 1"
    assert json.loads(dead_letter.payload) == {"v": "2", "colour": "base64:/w=="}


def canonical(**fields: Any) -> list[Any]:
    values = dict.fromkeys(Record._fields) | {
        "event_id": str(KEY), "occurred_at": "2026-03-01T11:00:00.000000Z", "type": "usage", **PAIR,
        "messages": 1, "input_tokens": 0, "output_tokens": 0, "tokens": 0, "success": True,
    }  # fmt: skip
    return list((values | fields).values())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (0, "event: Input should be an object"),
        ({**PAIR, "messages": -1}, "messages: "),
        (canonical(user_id="x"), "user_id: "),
        (canonical(occurred_at="2020-01-01T00:00:00.000000Z"), "occurred_at: older"),
        ({"a": 1}, "user_id: Field required"),
        (float("nan"), "event: "),
        ("\ud800", "event: Input should be an object"),
        ("\x00", "event: "),
        ([[[[]]]], "event: "),
    ],
)
def test_many_bad_events_of_entry_share_dead_letter(bad: Any, reason: str) -> None:
    count = MAX_LETTERS + 1
    few, many = decoded(PAIR, *[bad] * MAX_LETTERS), decoded(PAIR, *[bad] * count, canonical())
    assert [letter.position for letter in few.dead_letters] == [*range(1, count)]
    assert (few.positions, many.positions) == ([0], [0, count + 1])
    (shared,) = many.dead_letters
    assert (shared.position, shared.events) == (1, count)
    assert shared.reason.startswith(reason)
    assert shared.reason.endswith("(the first of more than 100 bad events of one entry)")
    payload = json.loads(shared.payload)
    assert payload["positions"] == [*range(1, count + 1)]
    assert len(payload["events"]) == count
    (whole,) = decoded(*[bad] * count, n=b"5").dead_letters
    assert (whole.position, whole.events, whole.reason) == (0, count, shared.reason)


GOOD = json.dumps(PAIR)


@pytest.mark.parametrize(
    ("body", "records", "events", "reason"),
    [
        ("[" + "0," * 100_000 + "0]", 0, 7, "events: more than 100000 events"),
        ("[" + "0," * 99_999 + "0]", 0, 100_000, "event: Input should be an object (the first of"),
        ("[" + "0," * 2_000_001 + "0]", 0, 7, "events: more than 2000000 values"),
        ('["' + "a" * 2**24 + '"]', 0, 7, "events: more than 16777216 bytes"),
        ("[" + "[" * 100_000 + "]" * 100_000 + f", {GOOD}]", 0, 7, "events: RecursionError"),
        (f"[{GOOD}, " + "[" * 300 + "]" * 300 + "]", 1, 1, "event: "),
        (f'[{GOOD}, {{"user_id": {"9" * 1_000_000}}}]', 1, 1, "user_id: "),
        (f"[{GOOD}, -1e999999999, 1]", 1, 1, "event: "),
        (f"[{GOOD}, {{" + ", ".join(f'"{n}": 1' for n in range(200_000)) + "}]", 1, 1, "event: has 200000 fields"),
        (f"[{GOOD}, {{" + '"a": 1, ' * 200_000 + '"a": 2}]', 1, 1, "user_id: Field required"),
    ],
)
def test_decoding_is_bounded(body: str, records: int, events: int, reason: str) -> None:
    entry = decode("stream", raw(body.encode(), n=b"7"), WINDOW)
    assert (len(entry.records), entry.dead_letters[0].events) == (records, events)
    assert entry.dead_letters[0].reason.startswith(reason)
    assert len(entry.dead_letters) <= 2


def test_refusing_whole_entry_keeps_every_event() -> None:
    entry = decoded(PAIR, {**PAIR, "messages": -1}, PAIR)
    entry.refuse_all("the transaction failed")
    assert (entry.records, entry.positions) == ([], [])
    assert sorted(dead_letter.position for dead_letter in entry.dead_letters) == [0, 1, 2]


@pytest.mark.parametrize(
    ("declared", "events"),
    [(b"500", 500), (b"0", 1), (b"-3", 1), (b"x", 1), (b"9" * (MAX_DECLARED_DIGITS + 1), 1)],
)
def test_declared_number_of_events_is_bounded(declared: bytes, events: int) -> None:
    assert raw(None, n=declared).declared == events


def test_pack_is_read_back_unchanged() -> None:
    pack = Pack(KEY, [json.dumps(PAIR).encode()] * 3)
    fields = {
        name.encode(): str(value).encode() if isinstance(value, str | int) else value
        for name, value in pack.fields().items()
    }
    entry = RawEntry(ENTRY_ID, fields)
    assert (entry.version, entry.key, entry.declared) == (b"1", KEY, 3)
    assert len(decode("stream", entry, WINDOW).records) == 3


def test_entry_time_ends_with_calendar() -> None:
    assert RawEntry("18446744073709551615-0", {}).added_at == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
