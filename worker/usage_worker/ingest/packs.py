"""Packs: the entries of our publisher, version 2, read by columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from usage_worker.events.columns import COLUMNS, KINDS, LAST_TIME, MAX_ENTRY_EVENTS, NAMES, Form
from usage_worker.ingest.event_array import UNKNOWN, Columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from usage_worker.events.columns import Column, Row
    from usage_worker.ingest.event_array import TextTable

_NO_ID = bytes(16)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


class NotByColumnsError(ValueError):
    """The events must be read one by one."""


def read_pack(body: bytes, texts: TextTable) -> Columns:
    """Read the events of a pack, checking types and bounds; what it cannot read here must be read one by one.

    Raises:
        NotByColumnsError: something is wrong or unusual.
    """
    try:
        pack = _PACK(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotByColumnsError from error
    given = {name: values for name in NAMES if (values := getattr(pack, name)) is not None}
    events = len(given["user_id"])
    if not 0 < events <= MAX_ENTRY_EVENTS or any(len(values) != events for values in given.values()):
        raise NotByColumnsError
    try:
        return _columns(events, given, _from_hex, texts)
    except ValueError as error:
        raise NotByColumnsError from error


def columns_of(rows: Sequence[Row], texts: TextTable) -> Columns:
    """Return checked events, given as rows, by columns."""
    return _columns(len(rows), dict(zip(NAMES, zip(*rows, strict=True), strict=True)), _from_uuids, texts)


def _columns(
    events: int, given: dict[str, Sequence[Any]], ids: Callable[[Sequence[Any]], bytes], texts: TextTable
) -> Columns:
    columns: dict[str, bytes | Sequence[int]] = {}
    for column in COLUMNS:
        values = given.get(column.name)
        if values is None:
            continue
        if column.form is Form.UUID:
            columns[column.name] = ids(values)
            if column.name == "conversation_id":
                columns["has_conversation"] = [value is not None for value in values]
        elif column.form is Form.KIND:
            columns[column.name] = list(map(_KIND_NUMBERS.__getitem__, values))
        elif column.form is Form.TEXT:
            columns[column.name] = texts.numbers(values)
        elif None in values:
            columns[column.name] = [UNKNOWN if value is None else value for value in values]
        else:
            columns[column.name] = values
    return Columns(events, columns)


def _from_hex(values: Sequence[str | None]) -> bytes:
    digits = [_NO_ID.hex() if value is None else value for value in values]
    if set(map(len, digits)) != {2 * len(_NO_ID)}:
        raise NotByColumnsError
    ids = bytes.fromhex("".join(digits))
    # It skips spaces between digits.
    if len(ids) != len(_NO_ID) * len(digits):
        raise NotByColumnsError
    return ids


def _from_uuids(values: Sequence[UUID | None]) -> bytes:
    return b"".join([_NO_ID if value is None else value.bytes for value in values])


def _type_of(column: Column) -> Any:
    match column.form:
        case Form.UUID:
            item: Any = str
        case Form.KIND:
            item = Literal[KINDS]
        case Form.TRUTH:
            item = bool
        case Form.TEXT:
            item = Annotated[str, msgspec.Meta(max_length=column.most)]
        case Form.TIME:
            # The acceptance window is checked later, for all entries at once.
            item = Annotated[int, msgspec.Meta(ge=0, le=LAST_TIME)]
        case Form.NUMBER | Form.DECIMAL:
            item = Annotated[int, msgspec.Meta(ge=0, le=column.most)]
    # Identities, times and what has a default are never null in a pack of ours.
    is_nullable = column.default is None and column.name not in _ALWAYS
    return list[item | None] if is_nullable else list[item]


# Without identities or times, they follow from the entry, as those of objects do.
_ALWAYS = ("event_id", "occurred_at", "user_id", "agent_id")
_PACK = msgspec.json.Decoder(
    msgspec.defstruct(
        "Pack",
        [
            (column.name, _type_of(column)) if column.name in _ALWAYS else (column.name, _type_of(column) | None, None)
            for column in sorted(COLUMNS, key=lambda column: column.name not in _ALWAYS)
        ],
        forbid_unknown_fields=True,
    )
).decode
