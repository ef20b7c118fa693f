"""Decoding stream entries: their events, dead letters with the reasons, and the identity of both."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.unit.entry_points import IDS, decode_entries
from usage_worker.events.columns import (
    MAX_DOLLARS,
    MAX_MESSAGES,
    MAX_MILLISECONDS,
    MAX_MODEL,
    MAX_PACK_EVENTS,
    MAX_PROVIDER,
    MAX_RATING,
    MAX_TOKENS,
    UNIT,
    Row,
)
from usage_worker.events.event import Window, microseconds
from usage_worker.events.external_ids import KINDS, MAX_EXTERNAL_ID, ExternalId
from usage_worker.ingest.entries import MAX_LETTERS, DecodedEntry
from usage_worker.ingest.event_array import TextTable
from usage_worker.queue.entry import MAX_DECLARED_DIGITS, Pack, RawEntry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = Window.around(NOW, timedelta(days=35))
ENTRY_ID = f"{int(NOW.timestamp() * 1000)}-0"
PAIR = {"user_id": "11111111-1111-4111-8111-111111111111", "agent_id": "22222222-2222-4222-8222-222222222222"}
KEY = UUID("33333333-3333-4333-8333-333333333333")
TIME = microseconds(NOW)


def raw(body: bytes | None, entry_id: str = ENTRY_ID, **fields: bytes) -> RawEntry:
    named = {"v": b"1", **fields} | ({} if body is None else {"events": body})
    return RawEntry(entry_id, {name.encode(): value for name, value in named.items()})


def decode_one(entry: RawEntry) -> DecodedEntry:
    (decoded,) = decode_entries([entry], WINDOW).entries
    return decoded


def decoded(*events: Any, entry_id: str = ENTRY_ID, **fields: bytes) -> DecodedEntry:
    return decode_one(raw(json.dumps(events).encode(), entry_id, **fields))


def columns(events: int = 1, **changes: Any) -> dict[str, Any]:
    ids = {name: [UUID(value).hex] * events for name, value in PAIR.items()}
    times = {"event_id": [f"{number:032x}" for number in range(events)], "occurred_at": [TIME] * events}
    return {name: values for name, values in (ids | times | changes).items() if values is not None}


def pack(events: int = 1, fields: Any = None, **changes: Any) -> DecodedEntry:
    return decode_one(raw(json.dumps(columns(events, **changes)).encode(), ENTRY_ID, v=b"2", **fields or {}))


def reasons(entry: DecodedEntry) -> list[str]:
    return [dead_letter.reason for dead_letter in entry.dead_letters]


def positions(entry: DecodedEntry) -> list[int]:
    found: list[int] = entry.events["position"].tolist()
    return found


def untimed(entry: DecodedEntry) -> list[int]:
    found: list[int] = entry.events["position"][entry.events["is_untimed"]].tolist()
    return found


def test_defaults_are_filled_in() -> None:
    for entry in (decoded(PAIR), pack()):
        (event,) = entry.events
        assert [event[name] for name in ("type", "messages", "tokens", "success")] == [0, 1, 0, True]
        assert event["occurred_at"] == TIME
        assert [event[name] for name in ("cost_usd", "rating", "model", "response_time_ms")] == [-1] * 4
        assert not event["has_conversation"]


def test_pack_and_objects_make_same_events() -> None:
    event = {
        "event_id": str(KEY), "occurred_at": "2026-03-01T11:59:59.123456Z", **PAIR, "messages": 3, "input_tokens": 5,
        "output_tokens": 7, "tokens": 20, "cached_input_tokens": 1, "cache_write_tokens": 2, "reasoning_tokens": 3,
        "cost_usd": "0.0031", "response_time_ms": 12, "success": False, "conversation_id": str(UUID(int=9)),
        "model": "m", "provider": "p",
    }  # fmt: skip
    in_units: dict[str, Any] = event | {
        "event_id": KEY.hex, "occurred_at": TIME - 876_544, "cost_usd": 31_000_000, "conversation_id": UUID(int=9).hex,
        **{name: UUID(value).hex for name, value in PAIR.items()},
    }  # fmt: skip
    rating = {"event_id": str(UUID(int=4)), "occurred_at": "2026-03-01T12:00:00Z", **PAIR, "type": "rating"} | {
        "rating": 4.5
    }
    rating_in_units: dict[str, Any] = {"type": ["rating"], "rating": [45_000_000_000], "event_id": [UUID(int=4).hex]}
    objects = decoded(event, rating)
    columnar: dict[str, Any] = {name: [value] for name, value in in_units.items()}
    assert pack(**columnar).events == objects.events[:1]
    other = pack(**rating_in_units).events
    other["position"] = 1
    assert other == objects.events[1:]


def test_event_without_id_gets_same_id_at_every_delivery() -> None:
    first, second = decoded(PAIR, PAIR), decoded(PAIR, PAIR)
    assert (first.events == second.events).all()
    assert first.events["is_anonymous"].all()
    assert (first.events["event_id"][0] != first.events["event_id"][1]).any()


@pytest.mark.parametrize("missing", ["event_id", "occurred_at"])
def test_column_of_identities_or_times_may_be_missing(missing: str) -> None:
    entry = pack(2, **{missing: None})
    assert entry.dead_letters == []
    assert entry.events["occurred_at"].tolist() == [TIME] * 2
    assert entry.events["is_anonymous"].all() == (missing == "event_id")
    assert entry.events["is_untimed"].all() == (missing == "occurred_at")


def test_events_with_a_key_and_no_time_of_the_application_are_marked() -> None:
    keyed, timed = {**PAIR, "event_id": "order-7"}, {**PAIR, "event_id": "8", "occurred_at": "2026-03-01T12:00:00Z"}
    entry = decoded(PAIR, keyed, timed)
    assert untimed(entry) == [1]
    payloads = [json.loads(entry.bad_event(event, "").payload) for event in entry.events]
    assert ["occurred_at" in payload for payload in payloads] == [True, False, True]
    assert untimed(decoded(PAIR, keyed, timed, times=b"publisher")) == [1, 2]
    assert untimed(decoded(PAIR, keyed, timed, times=b"others")) == [1]


def test_events_of_a_marked_pack_are_marked() -> None:
    marked = {"times": b"publisher"}
    assert untimed(pack(2, marked)) == [0, 1]
    entry = pack(3, marked, response_time_ms=[1, -5, None])
    assert untimed(entry) == [0, 2]
    assert "occurred_at" not in json.loads(entry.dead_letters[0].payload)
    assert untimed(pack(3, response_time_ms=[1, -5, None])) == []


def test_pack_key_identifies_entry_at_any_position() -> None:
    key = str(KEY).encode()
    assert decoded(PAIR, id=key).key == decoded(PAIR, entry_id="1772366400001-0", id=key).key == KEY


@pytest.mark.parametrize("fields", [{}, {"id": b"not a UUID"}, {"id": b"\xff"}])
def test_entry_without_valid_key_is_identified_by_position(fields: dict[str, bytes]) -> None:
    here, again, elsewhere = (
        decode_one(raw(b"[]", place, **fields)).key for place in (ENTRY_ID, ENTRY_ID, "1772366400001-0")
    )
    assert here == again != elsewhere


def test_bad_event_does_not_move_positions_of_others() -> None:
    entry = decoded(PAIR, {**PAIR, "messages": -1}, PAIR)
    assert positions(entry) == [0, 2]
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
    assert not len(entry.events)
    assert reasons(entry)[0].startswith(reason)


def test_events_of_pack_outside_window_are_refused() -> None:
    entry = pack(3, occurred_at=[TIME, 0, TIME + 10**9])
    assert positions(entry) == [0]
    assert reasons(entry) == [
        "occurred_at: older than the acceptance window (35 days)",
        "occurred_at: more than 5 minutes in the future",
    ]
    assert json.loads(entry.dead_letters[0].payload)["occurred_at"] == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"messages": [1, True]}, "messages: "),
        ({"messages": [1, 1.5]}, "messages: "),
        ({"messages": [1, 1_000_001]}, "messages: "),
        ({"messages": [1, -1]}, "messages: "),
        ({"input_tokens": [0, 10**12], "output_tokens": [0, 1]}, "tokens: the sum"),
        ({"tokens": [None, 10**12 + 1]}, "tokens: "),
        ({"cost_usd": [None, 0.5]}, "cost_usd: "),
        ({"cost_usd": [None, 10**16 + 1]}, "cost_usd: "),
        ({"cost_usd": [1, 10**40]}, "cost_usd: "),
        ({"occurred_at": [TIME, 1.5]}, "occurred_at: "),
        ({"occurred_at": [TIME, None]}, None),
        ({"occurred_at": [TIME, 10**18]}, "occurred_at: "),
        ({"event_id": ["0" * 32, None]}, None),
        ({"user_id": ["1" * 32, "g" * 32]}, "user_id: "),
        ({"user_id": ["1" * 32, "1 " * 16]}, "user_id: "),
        ({"user_id": ["1" * 32, "1" * 31]}, "user_id: "),
        ({"conversation_id": [None, "1" * 33]}, "conversation_id: "),
        ({"conversation_id": [None, ""]}, "conversation_id: "),
        ({"success": [True, 5]}, "success: "),
        ({"success": [True, "false"]}, None),
        ({"type": ["usage", "use"]}, "type: "),
        ({"type": ["usage", "rating"]}, "rating: "),
        ({"rating": [None, 1]}, "rating: "),
        ({"model": [None, "m" * 201]}, "model: "),
        ({"model": [None, "\0"]}, "model: "),
        ({"model": [None, "\ud800"]}, "model: "),
        ({"provider": [None, 5]}, "provider: "),
    ],
)
def test_bad_value_of_pack_refuses_its_event_only(changes: dict[str, Any], reason: str | None) -> None:
    entry = pack(2, **changes)
    assert positions(entry) == ([0, 1] if reason is None else [0])
    assert [it.startswith(reason or "") for it in reasons(entry)] == ([] if reason is None else [True])


def test_column_that_is_null_is_missing_also_beside_a_bad_value() -> None:
    nothing = dict.fromkeys(["occurred_at", "messages", "cost_usd", "model"])
    body = columns(2) | nothing
    assert positions(decode_one(raw(json.dumps(body).encode(), v=b"2"))) == [0, 1]
    entry = decode_one(raw(json.dumps(body | {"response_time_ms": [1, -1]}).encode(), v=b"2"))
    assert positions(entry) == [0]
    assert reasons(entry)[0].startswith("response_time_ms: ")


def test_dead_letter_of_pack_has_dollars_and_not_units() -> None:
    entry = pack(2, cost_usd=[31_000_000, 5_000_000_000], messages=[-1, -1], success=[True, 2])
    assert [json.loads(letter.payload)["cost_usd"] for letter in entry.dead_letters] == ["0.0031", "0.5"]


@pytest.mark.parametrize("unknown", ["colour", "user_id_2", "0"])
def test_unknown_column_makes_entry_wait(unknown: str) -> None:
    body = json.dumps(columns() | {unknown: [1]}).encode()
    known = raw(json.dumps(columns()).encode(), "1-0", v=b"2")
    entries, newer, _ = decode_entries([raw(body, v=b"2"), known, raw(b"", "2-0", v=b"3")], WINDOW)
    assert newer == {ENTRY_ID: f"column {unknown}", "2-0": "version 3"}
    assert [(entry.entry_id, len(entry.events)) for entry in entries] == [("1-0", 1)]


def test_entries_decoded_together_are_as_if_alone() -> None:
    texts = TextTable()
    raws = [
        raw(json.dumps(columns(3, model=["a", "b", "a"])).encode(), v=b"2"),
        raw(b"[", "1-0"),
        raw(json.dumps([{**PAIR, "model": "c"}, 5, {**PAIR, "model": "a"}]).encode()),
        raw(json.dumps(columns(2, occurred_at=[TIME, 1])).encode(), v=b"2"),
    ]
    entries = decode_entries(raws, WINDOW, texts).entries
    for entry, alone in zip(entries, map(decode_one, raws), strict=True):
        assert [texts.text(it) for it in entry.events["model"]] == list(map(alone.texts.text, alone.events["model"]))
        assert entry.dead_letters == alone.dead_letters
        assert positions(entry) == positions(alone)


def test_entry_time_must_be_in_window_if_event_has_no_time() -> None:
    assert "by the entry's id" in reasons(decoded(PAIR, entry_id="1-0"))[0]


def test_decimals_do_not_pass_through_float() -> None:
    body = json.dumps([PAIR])[:-2] + ', "cost_usd": 999999.9999990004}]'
    assert decode_one(raw(body.encode())).events["cost_usd"].tolist() == [9_999_999_999_990_004]


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[]", b"\xff", b"null", b"[" * 100_000, b"9" * 5_000])
@pytest.mark.parametrize("version", [b"1", b"2"])
def test_unreadable_body_becomes_one_dead_letter_for_all_declared_events(body: bytes, version: bytes) -> None:
    entry = decode_one(raw(body, v=version, n=b"7"))
    assert not len(entry.events)
    (dead_letter,) = entry.dead_letters
    assert (dead_letter.position, dead_letter.events) == (0, 7)
    assert dead_letter.reason.startswith("events: ")


def test_entry_of_another_version_is_kept_whole() -> None:
    entry = decode_one(raw(None, v=b"0", colour=b"\xff"))
    (dead_letter,) = entry.dead_letters
    assert dead_letter.reason == "v: the entry's version must be 1 or 2"
    assert json.loads(dead_letter.payload) == {"v": "0", "colour": "base64:/w=="}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (0, "event: Input should be an object"),
        ({**PAIR, "messages": -1}, "messages: "),
        ({**PAIR, "occurred_at": "2020-01-01T00:00:00.000000Z"}, "occurred_at: older"),
        ({"a": 1}, "user_id: Field required"),
        (float("nan"), "event: "),
        ("\ud800", "event: Input should be an object"),
        ("\x00", "event: "),
        ([[[[]]]], "event: "),
    ],
)
def test_many_bad_events_of_entry_share_dead_letter(bad: Any, reason: str) -> None:
    count = MAX_LETTERS + 1
    few, many = decoded(PAIR, *[bad] * MAX_LETTERS), decoded(PAIR, *[bad] * count, PAIR)
    assert [letter.position for letter in few.dead_letters] == [*range(1, count)]
    assert (positions(few), positions(many)) == ([0], [0, count + 1])
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
    entry = decode_one(raw(body.encode(), n=b"7"))
    assert (len(entry.events), entry.dead_letters[0].events) == (records, events)
    assert entry.dead_letters[0].reason.startswith(reason)
    assert len(entry.dead_letters) <= 2


# JSON writes each of these with six bytes, more than it writes any other character with.
ESCAPED = str.maketrans("0123456789abcdef", "".join(map(chr, range(0x0E, 0x1E))))


def largest_event(number: int) -> tuple[Row, list[ExternalId]]:
    """Return an event than which none takes more bytes in a pack, with its ids, which no other event has."""
    text = f"{number:0{MAX_EXTERNAL_ID}x}".translate(ESCAPED)
    made = [IDS.of_text(kind, text) for kind in KINDS]
    user, agent, conversation = (external.id.int for external in made)
    model, provider = ("0".translate(ESCAPED) * most for most in (MAX_MODEL, MAX_PROVIDER))
    row = (
        str(uuid4()), TIME, "rating", user, agent, MAX_MESSAGES, *[MAX_TOKENS] * 6, MAX_DOLLARS * UNIT,
        MAX_MILLISECONDS, False, conversation, model, provider, MAX_RATING * UNIT,
    )  # fmt: skip
    return row, made


def test_largest_pack_of_a_publisher_is_within_the_bounds_of_an_entry() -> None:
    values: list[Any] = []
    made: list[ExternalId] = []
    for number in range(MAX_PACK_EVENTS):
        row, its_ids = largest_event(number)
        values += row
        made += its_ids
    pack = Pack.of_rows(KEY, values, made)
    entry = decode_one(raw(pack.body, v=pack.version, n=str(pack.events).encode(), ids=pack.ids))
    assert (len(entry.events), entry.dead_letters) == (MAX_PACK_EVENTS, [])
    assert (len(entry.made), entry.ids_problem) == (len(KINDS) * MAX_PACK_EVENTS, "")


def test_too_many_events_of_pack_are_not_made_objects() -> None:
    body = b'{"user_id": [' + b"1," * 400_000 + b"1]}"
    tracemalloc.start()
    try:
        entry = decode_one(raw(body, v=b"2", n=b"7"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reasons(entry) == ["events: more than 100000 events"]
    assert peak < 20 * len(body)


def test_refusing_whole_entry_keeps_every_event() -> None:
    entry = decoded(PAIR, {**PAIR, "messages": -1}, PAIR)
    entry.refuse_all("the transaction failed")
    assert not len(entry.events)
    assert sorted(dead_letter.position for dead_letter in entry.dead_letters) == [0, 1, 2]


@pytest.mark.parametrize(
    ("declared", "events"),
    [(b"500", 500), (b"0", 1), (b"-3", 1), (b"x", 1), (b"9" * (MAX_DECLARED_DIGITS + 1), 1)],
)
def test_declared_number_of_events_is_bounded(declared: bytes, events: int) -> None:
    assert raw(None, n=declared).declared == events


def test_size_is_that_of_all_fields() -> None:
    """What nothing reads stays in memory with the batch as well."""
    assert raw(b"[]", note=b"x" * 1_000).size > 1_000


def test_entry_time_ends_with_calendar() -> None:
    assert RawEntry("18446744073709551615-0", {}).added_at == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
