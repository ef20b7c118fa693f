"""Rows of COPY's binary format, written without a server and read back by its rules."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.event_arrays import MIDNIGHT, PlainEvent, array_from
from usage_worker.events.columns import MAX_MODEL, NAMES, UNIT
from usage_worker.ingest.copy_rows import ledger_rows, totals_rows
from usage_worker.ingest.event_array import EVENT, TextTable
from usage_worker.ingest.fold import TYPES, fold
from usage_worker.store import copy_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

USE = PlainEvent(UUID(int=9), MIDNIGHT, "usage", UUID(int=1), UUID(int=2))


def read(rows: bytes) -> Iterator[list[bytes | None]]:
    """Yield the rows (PostgreSQL manual, COPY, "Binary Format")."""
    place = 0
    while place < len(rows):
        (columns,) = struct.unpack_from(">h", rows, place)
        place += 2
        row: list[bytes | None] = []
        for _ in range(columns):
            (length,) = struct.unpack_from(">i", rows, place)
            place += 4
            row.append(None if length == -1 else rows[place : place + length])
            place += max(length, 0)
        yield row
    assert place == len(rows)


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_are_utf8(texts: list[str | None]) -> None:
    table = TextTable()
    numbers = np.array(table.numbers([text and text.replace("\0", "") for text in texts]), np.int32)
    expected = [[None if text is None else text.replace("\0", "").encode()] for text in texts]
    assert list(read(copy_binary.rows(len(texts), [copy_binary.text(numbers, table.texts)]))) == expected


@given(st.lists(st.tuples(st.integers(0, 9 * 10**12), st.integers(0, UNIT - 1))))
def test_numerics_have_digits_of_base_10000(numbers: list[tuple[int, int]]) -> None:
    values = np.array(numbers, np.int64).reshape(-1, 2)
    for (whole, units), (cell,) in zip(
        numbers, read(copy_binary.rows(len(numbers), [copy_binary.numeric((values[:, 0], values[:, 1]))])), strict=True
    ):
        assert cell is not None
        count, weight, sign, decimals, *digits = struct.unpack(f">{len(cell) // 2}h", cell)
        assert (len(digits), sign, decimals) == (count, 0, 10)
        value = sum(digit * 10_000 ** (weight - place + 3) for place, digit in enumerate(digits))
        assert value == (whole * UNIT + units) * 100


def test_no_events_have_no_rows() -> None:
    nothing = np.empty(0, EVENT)
    assert (ledger_rows(nothing, TextTable(), None), totals_rows(fold(nothing))) == (b"", b"")


def test_ledger_row_distinguishes_unknown_zero_and_empty() -> None:
    known = USE._replace(cost_usd=0, response_time_ms=0, conversation_id=UUID(int=0), model="", provider="")
    texts = TextTable()
    cells = read(ledger_rows(array_from([USE, known], texts), texts, None))
    rows = [dict(zip((*NAMES, "cost_source"), row, strict=True)) for row in cells]
    names = ("response_time_ms", "conversation_id", "model", "provider")
    assert [rows[0][name] for name in ("cost_usd", *names)] == [None] * 5
    assert [rows[1][name] for name in names] == [bytes(4), bytes(16), b"", b""]
    assert rows[1]["cost_usd"] is not None
    assert [row["cost_source"] for row in rows] == [b"unknown", b"caller"]


@pytest.mark.parametrize("size", [1, 1000])
def test_long_texts_take_only_their_own_room(size: int) -> None:
    texts = TextTable()
    events = array_from([USE._replace(model="\U0001f600" * MAX_MODEL), *[USE] * size], texts)
    rows = list(read(ledger_rows(events, texts, None)))
    assert [len(row[NAMES.index("model")] or b"") for row in rows] == [4 * MAX_MODEL, *[0] * size]
    assert len(ledger_rows(events, texts, None)) < 300 * size + 4 * MAX_MODEL + 300


def test_conversations_of_a_busy_pair_take_only_their_own_room() -> None:
    events = np.repeat(array_from([USE]), 14_100)
    events["agent_id"][:100, 1] = np.arange(100) + 10
    events["conversation_id"][:, 1], events["has_conversation"] = np.arange(len(events)), True
    rows = totals_rows(fold(events))
    arrays = [row[list(TYPES).index("conversations")] or b"" for row in read(rows)]
    assert sorted(map(len, arrays)) == [*[20 + 20] * 100, 20 + 14_000 * 20]
    assert len(rows) < sum(map(len, arrays)) + 101 * 300
