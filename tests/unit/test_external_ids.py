"""Ids of an application's own: one UUID for one id, however it is written and wherever it comes in."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import usage_worker
from tests.unit.entry_points import ENTRY_ID, GIVEN, WINDOW, decode_entries
from usage_worker.errors import EventRefusedError, SettingsError
from usage_worker.events.columns import NAMES
from usage_worker.events.event import Window, values_of
from usage_worker.events.external_ids import KINDS, ExternalId, external_ids, uuid_of, write_ids
from usage_worker.events.values import read_json
from usage_worker.events.wire import prepare, prepare_rating, prepare_values, write_columns
from usage_worker.ingest.event_array import uuid_texts
from usage_worker.maintenance.dead_letters import RepairEdits
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.event_files import read_lines
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.queue.entry import RawEntry
from usage_worker.settings import DEFAULT_ID_NAMESPACE, load_publisher_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.events.external_ids import Kind
    from usage_worker.events.wire import Prepared

IDS = external_ids(DEFAULT_ID_NAMESPACE)
OTHER = external_ids(UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8"))
NOW = Window.around(datetime.now(UTC), timedelta(days=1))
MESSAGE = "must be a UUID, a whole number, or a text of 1 to 255 characters without U+0000"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255)
kinds = st.sampled_from(KINDS)


class Account(IntEnum):
    """A number of an application's own."""

    ACME = 42


class Name(str):
    """A text of an application's own."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("str")


@given(kinds, texts)
def test_text_becomes_the_uuid_of_its_kind(kind: Kind, text: str) -> None:
    expected = uuid5(DEFAULT_ID_NAMESPACE, f"{kind}:{text}")
    assert uuid_of(kind, text) == expected
    assert uuid_of(kind, text, OTHER.namespace) == uuid5(OTHER.namespace, f"{kind}:{text}") != expected


@given(kinds, st.integers(-(10**200), 10**200))
def test_number_and_its_text_are_one(kind: Kind, number: int) -> None:
    assert uuid_of(kind, number) == uuid_of(kind, str(number))


@given(kinds, st.uuids())
def test_uuid_stays_itself_in_every_notation(kind: Kind, uuid: UUID) -> None:
    for text in (str(uuid), uuid.hex, str(uuid).upper(), f"{{{uuid}}}", uuid.urn):
        assert uuid_of(kind, text) == uuid
        assert IDS.of(kind, text).external_id == ""
    assert uuid_of(kind, uuid) == uuid


def test_kinds_differ() -> None:
    assert len({uuid_of(kind, 42) for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("value", [Account.ACME, np.int64(42), Decimal(42), "42"])
def test_numbers_of_every_class_are_one(value: Any) -> None:
    assert uuid_of("user", value) == uuid_of("user", 42)


def test_text_of_an_own_class_is_a_text() -> None:
    assert uuid_of("user", Name("ann")) == uuid_of("user", "ann")


HOSTILE: list[Any] = [
    None, True, 1.0, b"42", "", "a\0", "x" * 256, "\ud800", [], {}, 10**255, 10**5000, Decimal("NaN"), Decimal("1.0"),
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20] if type(value) is not int else "large")
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="user: must be a UUID, a whole number"):
        uuid_of("user", value)
    fields = {"user_id": 42, "agent_id": "bot", "conversation_id": value}
    for name in fields if value is not None else ("user_id", "agent_id"):
        with pytest.raises(EventRefusedError, match=f"{name}: {re.escape(MESSAGE)}"):
            prepare(fields | {"conversation_id": 7, name: value}, NOW, IDS)


def test_kind_is_one_of_ours() -> None:
    with pytest.raises(ValueError, match="kind must be one of user, agent, conversation"):
        uuid_of("team", 42)  # type: ignore[arg-type]


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(EventRefusedError, match=r"user_id: must be .*; messages: "):
        prepare({"user_id": True, "agent_id": "bot", "messages": -1}, NOW, IDS)


def test_namespace_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_ID_NAMESPACE", str(OTHER.namespace))
    assert usage_worker.uuid_of("user", 42) == OTHER.of("user", 42).id
    assert load_publisher_settings().id_namespace == OTHER.namespace
    monkeypatch.setenv("USAGE_ID_NAMESPACE", "acme")
    with pytest.raises(SettingsError, match="USAGE_ID_NAMESPACE: "):
        uuid_of("user", 42)
    with pytest.raises(SettingsError, match="USAGE_ID_NAMESPACE: "):
        load_publisher_settings()


def test_publisher_takes_ids_of_two_forms() -> None:
    with pytest.raises(SettingsError, match='ids: must be "uuid" or "uuid5"'):
        UsagePublisher(ids="uuid4")  # type: ignore[arg-type]


def test_without_uuid5_only_uuids_are_taken() -> None:
    with pytest.raises(EventRefusedError, match="user_id: UUID input should be"):
        prepare({"user_id": 42, "agent_id": uuid4()}, NOW)


@given(*[st.uuids() | st.uuids().map(str) | texts | st.integers()] * 3, st.sampled_from([0.1, "0.1"]))
def test_short_way_equals_long_way(user: Any, agent: Any, conversation: Any, cost: Any) -> None:
    """The float takes the long way, by pydantic."""
    fields = {"user_id": user, "agent_id": agent, "conversation_id": conversation, "cost_usd": cost}
    event = prepare_values(values_of(fields), NOW, IDS)
    made = []
    for kind, value in zip(KINDS, (user, agent, conversation), strict=True):
        assert event.row[NAMES.index(f"{kind}_id")] == uuid_of(kind, value).int
        if IDS.of(kind, value).external_id:
            made.append(ExternalId(kind, uuid_of(kind, value), str(value)))
    assert list(event.made) == made


def test_ids_that_are_known_are_not_made_again() -> None:
    one, other = (prepare({"user_id": it, "agent_id": "bot"}, NOW, IDS).made for it in (42, "42"))
    assert all(first is second for first, second in zip(one, other, strict=True))


def entry(ids: bytes | None, *events: Prepared) -> RawEntry:
    body = write_columns([value for event in events for value in event.row])
    fields = {b"v": b"2", b"n": b"%d" % len(events), b"events": body}
    return RawEntry(ENTRY_ID, fields if ids is None else fields | {b"ids": ids})


EVENTS = [
    prepare(GIVEN | {"event_id": uuid4(), "user_id": user, "agent_id": "bot"}, WINDOW, IDS) for user in (42, "ann", 42)
]
MADE = {external.id: external for event in EVENTS for external in event.made}
WRITTEN = write_ids(MADE.values())


def test_entry_carries_each_original_once() -> None:
    assert json.loads(WRITTEN) == {
        "user": {uuid_of("user", 42).hex: "42", uuid_of("user", "ann").hex: "ann"},
        "agent": {uuid_of("agent", "bot").hex: "bot"},
    }
    (decoded,) = decode_entries([entry(WRITTEN, *EVENTS)], WINDOW).entries
    assert {external.id: external for external in decoded.made} == MADE
    assert decoded.ids_problem == ""
    assert write_ids([]) == b""


def changed(**kinds: dict[str, str]) -> bytes:
    return json.dumps(json.loads(WRITTEN) | kinds).encode()


USER = uuid_of("user", 42).hex
WRONG = [
    (b"", 0),
    (b"[]", 0),
    (b"{", 0),
    (b'{"user": null}', 0),
    (b'{"user": {"a": 1}}', 0),
    (b"\xff", 0),
    (b"[" * 100_000, 0),
    (b'{"user": {"x": "' + b"x" * 20_000 + b'"}}', 0),
    (changed(user={f"{number:032x}": str(number) for number in range(4)}), 0),
    (changed(user={USER: "43"}), 1),
    (changed(user={USER: USER}), 1),
    (changed(user={USER: "a\0"}), 1),
    (changed(user={USER.upper(): "42"}), 1),
    (changed(user={str(UUID(USER)): "42"}), 1),
    (changed(user={USER: "42", "": ""}), 2),
    (write_ids(OTHER.of("user", text) for text in ("42", "ann")), 0),
]


@pytest.mark.parametrize(("field", "kept"), WRONG, ids=lambda it: it[:30] if isinstance(it, bytes) else it)
def test_wrong_originals_are_left_out_and_stop_no_event(field: bytes, kept: int) -> None:
    (decoded,), newer, _ = decode_entries([entry(field, *EVENTS)], WINDOW)
    assert (len(decoded.events), decoded.dead_letters, newer) == (len(EVENTS), [], {})
    assert len(decoded.made) == kept
    assert all(MADE[external.id] == external for external in decoded.made)
    assert decoded.ids_problem


def test_kinds_of_a_newer_publisher_do_no_harm() -> None:
    (decoded,) = decode_entries([entry(changed(team={"x": "y"}), *EVENTS)], WINDOW).entries
    assert {external.id for external in decoded.made} == MADE.keys()


def test_originals_of_an_unreadable_entry_are_not_read() -> None:
    raw = RawEntry(ENTRY_ID, {b"v": b"2", b"events": b"{", b"ids": WRITTEN})
    (decoded,) = decode_entries([raw], WINDOW).entries
    assert (decoded.made, decoded.ids_problem, len(decoded.dead_letters)) == ([], "", 1)


VALUES: tuple[int | str, ...] = (42, "bot", 10**30)


def objects(text: str) -> RawEntry:
    return RawEntry(ENTRY_ID, {b"v": b"1", b"events": f"[{text}]".encode()})


def test_objects_have_any_id_where_the_worker_takes_it() -> None:
    text = json.dumps(GIVEN | dict(zip(("user_id", "agent_id", "conversation_id"), VALUES, strict=True)))
    (decoded,) = decode_entries([objects(text)], WINDOW, ids=IDS, takes_any_id=True).entries
    for kind, value in zip(KINDS, VALUES, strict=True):
        assert uuid_texts(decoded.events[f"{kind}_id"]) == [uuid_of(kind, value).hex]
        assert ExternalId(kind, uuid_of(kind, value), str(value)) in decoded.made
    (refused,) = decode_entries([objects(text)], WINDOW, ids=IDS).entries
    assert refused.made == []
    assert "user_id: UUID input should be" in refused.dead_letters[0].reason


def test_columns_with_a_broken_uuid_are_refused_everywhere() -> None:
    raw = entry(None, *EVENTS)
    broken = RawEntry(ENTRY_ID, {**raw.fields, b"events": raw.fields[b"events"].replace(USER.encode(), b"42")})
    (decoded,) = decode_entries([broken], WINDOW, ids=IDS, takes_any_id=True).entries
    assert (len(decoded.events), len(decoded.dead_letters), decoded.made) == (1, 2, [])


def from_file(text: str, *, is_csv: bool) -> Prepared:
    (line,) = FieldMapping({}, {}).events(read_lines(io.StringIO(text, newline=""), is_csv=is_csv))
    return prepare(line.fields, WINDOW, IDS)


def replayed(text: str, edits: RepairEdits = RepairEdits()) -> Prepared:  # noqa: B008 - frozen
    letter = {"events": 1, "payload": text, "position": 0, "entry_key": UUID(int=5), "entry_id": ENTRY_ID}
    (event,) = edits.events(letter | {"stream": "s"}, WINDOW, IDS)
    return event


DOORS: dict[str, Callable[[str], Prepared]] = {
    "track": lambda text: prepare_values(values_of(json.loads(text)), NOW, IDS),
    "add": lambda text: prepare(json.loads(text), WINDOW, IDS),
    "rate": lambda text: prepare_rating({**json.loads(text), "rating": 5}, WINDOW, IDS),
    "NDJSON": lambda text: from_file(text, is_csv=False),
    "CSV": lambda _: from_file("user_id,agent_id\n42,bot\n", is_csv=True),
    "replay": replayed,
    "replay --set": lambda text: replayed(text, RepairEdits({"user_id": "42"})),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("user", [42, "42"])
def test_every_entry_point_makes_the_same_uuids(door: str, user: Any) -> None:
    event = DOORS[door](json.dumps({"user_id": user, "agent_id": "bot"}))
    assert event.row[NAMES.index("user_id")] == uuid_of("user", 42).int
    assert event.row[NAMES.index("agent_id")] == uuid_of("agent", "bot").int
    assert [external.external_id for external in event.made] == ["42", "bot"]


@pytest.mark.parametrize("ids", [IDS, None])
def test_replay_of_a_whole_entry_takes_its_originals_along(ids: Any) -> None:
    """Its body is wrong as a whole; whoever replays it need not make ids."""
    fields = entry(WRITTEN, EVENTS[0]).fields
    payload = json.dumps({name.decode(): value.decode() for name, value in fields.items()} | {"id": str(UUID(int=5))})
    letter = {
        "events": 1, "payload": payload, "position": 0, "stream": "s", "entry_key": UUID(int=5), "entry_id": ENTRY_ID,
    }  # fmt: skip
    (event,) = RepairEdits().events(letter, WINDOW, ids)
    assert list(event.made) == list(EVENTS[0].made)


def test_long_number_of_json_is_one_with_its_text() -> None:
    number = "1" * 40
    value = read_json(number)
    assert uuid_of("user", value) == uuid_of("user", number) == uuid_of("user", int(number))
