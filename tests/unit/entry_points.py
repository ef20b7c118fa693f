"""Every way by which an event comes in, from its JSON to what is counted, spelled out."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps, loads

from usage_worker.errors import EventRefusedError
from usage_worker.events.columns import NAMES
from usage_worker.events.event import Window
from usage_worker.events.external_ids import external_ids
from usage_worker.events.values import read_json, write_json
from usage_worker.events.wire import prepare, prepare_rating, prepare_values, write_columns
from usage_worker.http.body import parsed
from usage_worker.http.forms import CLOUD_EVENT, FORMS, OURS
from usage_worker.ingest.decode import decode
from usage_worker.ingest.event_array import TextTable
from usage_worker.maintenance.dead_letters import RepairEdits
from usage_worker.publisher.event_files import read_lines
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.queue.entry import RawEntry
from usage_worker.service import entry_point
from usage_worker.settings import DEFAULT_ID_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.events.wire import Prepared
    from usage_worker.ingest.decode import Decoded

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
WINDOW = Window.around(NOW, timedelta(days=35))
IDS = external_ids(DEFAULT_ID_NAMESPACE)
ENTRY_ID = f"{SECONDS}000-0"
PAIR = {"user_id": "11111111-1111-4111-8111-111111111111", "agent_id": "22222222-2222-4222-8222-222222222222"}
GIVEN = {"event_id": "33333333-3333-4333-8333-333333333333", "occurred_at": "2026-03-01T12:00:00Z", **PAIR}


def published(event: Prepared) -> SimpleNamespace:
    return counted(write_columns(event.row), b"2")


def decoded(item: str) -> SimpleNamespace:
    return counted(f"[{item}]".encode(), b"1")


def decode_entries(
    raws: Sequence[RawEntry],
    window: Window = WINDOW,
    texts: TextTable | None = None,
    ids: ExternalIds = IDS,
    *,
    takes_any_id: bool = False,
) -> Decoded:
    """Decode entries of a stream, with the same window for those of backfills."""
    return decode("s", raws, window, texts or TextTable(), backfill=window, ids=ids, takes_any_id=takes_any_id)


def counted(body: bytes, version: bytes) -> SimpleNamespace:
    raw = RawEntry(ENTRY_ID, {b"v": version, b"events": body})
    (entry,) = decode_entries([raw]).entries
    if entry.dead_letters:
        raise EventRefusedError(entry.dead_letters[0].reason)
    (event,) = entry.events
    event["is_untimed"] = False
    return SimpleNamespace(**(dict.fromkeys(NAMES) | json.loads(entry.bad_event(event, "").payload)))


def tracked(text: str) -> SimpleNamespace:
    fields = json.loads(text)
    if fields.get("type") == "rating":
        return published(prepare_rating({name: fields[name] for name in fields if name != "type"}, WINDOW))
    defaults = {"type": "usage", "messages": 1, "input_tokens": 0, "output_tokens": 0, "success": True}
    return published(prepare_values(tuple(fields.get(name, defaults.get(name)) for name in NAMES), WINDOW))


def added(text: str) -> SimpleNamespace:
    return published(prepare(json.loads(text), WINDOW))


def by_columns(text: str) -> SimpleNamespace:
    fields = {**read_json(text), "occurred_at": SECONDS * 1_000_000}
    return counted(write_json({name: [value] for name, value in fields.items()}).encode(), b"2")


def by_celery(text: str) -> SimpleNamespace:
    (event,) = loads(dumps([json.loads(text)]))  # type: ignore[no-untyped-call]
    return decoded(entry_point._json(event).decode())


def from_file(text: str, *, is_csv: bool) -> SimpleNamespace:
    mapping = FieldMapping({}, {})
    (line,) = mapping.events(read_lines(io.StringIO(text, newline=""), is_csv=is_csv))
    if line.problem:
        raise EventRefusedError(line.problem)
    return published(prepare(line.fields, WINDOW))


def from_csv(text: str) -> SimpleNamespace:
    cells = {name: cell(value) for name, value in read_json(text).items()}
    table = io.StringIO(newline="")
    csv.writer(table).writerows([cells.keys(), cells.values()])
    return from_file(table.getvalue(), is_csv=True)


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else write_json(value)


def from_http(text: str) -> SimpleNamespace:
    (item,) = FORMS[OURS].items_of(parsed(text.encode()))
    return published(prepare(FORMS[OURS].fields_of(item), WINDOW))


def from_cloud_event(text: str) -> SimpleNamespace:
    data = parsed(text.encode())
    event = {"specversion": "1.0", "source": "/", "id": "1", "type": data.pop("type", "usage")}
    event |= {"subject": data.pop("user_id"), "time": data.pop("occurred_at"), "data": data}
    del data["event_id"]
    return published(prepare(FORMS[CLOUD_EVENT].fields_of(event), WINDOW))


def replayed(text: str) -> SimpleNamespace:
    letter = {"events": 1, "payload": text, "position": 0, "entry_key": None, "entry_id": ENTRY_ID}
    (event,) = RepairEdits().events(letter, WINDOW)
    return published(event)


DOORS: dict[str, Callable[[str], SimpleNamespace]] = {
    "track": tracked,
    "add": added,
    "object": decoded,
    "columns": by_columns,
    "Celery": by_celery,
    "NDJSON": lambda text: from_file(text, is_csv=False),
    "CSV": from_csv,
    "HTTP": from_http,
    "CloudEvents": from_cloud_event,
    "replay": replayed,
}


def outcomes(field: str, value: str, **fields: str) -> Iterator[tuple[str, Any]]:
    """Yield what a field becomes at each entry point, given as JSON; a refusal is its reason in a tuple."""
    text = "{" + json.dumps({**GIVEN, **fields})[1:-1] + f', "{field}": {value}' + "}"
    for name, door in DOORS.items():
        if name == "CSV" and (field in ("model", "event_id") or not value.isascii()) and not value.startswith('"'):
            continue  # every cell is text
        if name == "track" and field in ("type", "rating"):
            continue  # decided by the method
        if name == "CloudEvents" and {field, *fields} & {"event_id", "occurred_at", "type", "user_id"}:
            continue  # attributes, which may not be null, and have rules of their own
        if name == "columns" and {field, *fields} & {"occurred_at", "cost_usd", "rating"}:
            continue  # in units
        try:
            yield name, getattr(door(text), field)
        except EventRefusedError as error:
            yield name, (str(error),)
