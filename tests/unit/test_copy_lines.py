"""Lines of COPY: PostgreSQL's text format, written without a server and read back by its rules."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_worker.events.event import Record
from usage_worker.ingest.copy_lines import ledger_line, totals_line
from usage_worker.ingest.fold import Totals, fold
from usage_worker.store.copy_text import NULL, array, escaped

ID, USER, AGENT, OLD, NEW = (str(UUID(int=number)) for number in range(5))
TIME, LATER = "2026-03-01T12:00:00.000000Z", "2026-03-01T13:00:00.000000Z"
USAGE = Record(ID, TIME, "usage", USER, AGENT, 2, 3, 4, 7, "0.5", 250, True, OLD, "model", None)
RATING = USAGE._replace(type="rating", rating="4.5")
# PostgreSQL manual, COPY, "Text Format".
UNESCAPED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def columns(line: str) -> list[str]:
    assert line.endswith("\n")
    return line[:-1].split("\t")


def unescaped(text: str) -> str:
    parts = iter(text)
    return "".join(UNESCAPED[part + next(parts)] if part == "\\" else part for part in parts)


@given(st.text())
def test_escaped_text_is_one_column_and_reads_back_unchanged(text: str) -> None:
    written = escaped(text)
    assert not set(written) & set("\t\n\r")
    assert unescaped(written) == text


def test_text_that_looks_like_null_is_not_null() -> None:
    assert escaped(NULL) != NULL


def test_array_needs_no_quotes() -> None:
    assert array([OLD, NEW]) == f"{{{OLD},{NEW}}}"
    assert array([]) == "{}"


def test_ledger_line_has_every_column_in_order() -> None:
    assert columns(ledger_line(USAGE)) == [
        *(ID, TIME, "usage", USER, AGENT, "2", "3", "4", "7", "0.5", "250", "t", OLD, "model", NULL)
    ]


def test_ledger_line_distinguishes_unknown_zero_and_empty() -> None:
    unknown = USAGE._replace(cost_usd=None, response_time_ms=None, conversation_id=None, model=None)
    assert [columns(ledger_line(unknown))[place] for place in (9, 10, 12, 13)] == [NULL] * 4
    known = USAGE._replace(cost_usd="0", response_time_ms=0, model="")
    assert [columns(ledger_line(known))[place] for place in (9, 10, 13)] == ["0", "0", ""]


def test_ledger_line_escapes_model() -> None:
    line = ledger_line(USAGE._replace(model="a\tb\\\n"))
    assert len(columns(line)) == len(Record._fields)
    assert unescaped(columns(line)[13]) == "a\tb\\\n"


def totals(*records: Record) -> list[str]:
    ((pair, total),) = fold(records)["2026-03-01"].items()
    return columns(totals_line(pair, total))


def test_totals_line_of_one_use_has_its_time_once() -> None:
    assert totals(USAGE) == [
        *(USER, AGENT, "1", "2", "1", "3", "4", "0", "0", "0", "7", "0.5", "250", "1"),
        *(NULL, TIME, f"{{{OLD}}}", TIME, NULL, NULL),
    ]


def test_totals_line_puts_newest_conversation_first() -> None:
    line = totals(USAGE._replace(occurred_at=LATER, conversation_id=NEW), USAGE)
    assert line[14:18] == [TIME, LATER, f"{{{NEW},{OLD}}}", LATER]


def test_totals_line_of_rating_counts_no_use() -> None:
    assert totals(RATING) == [USER, AGENT, *["0"] * 12, *[NULL] * 4, "4.5", TIME]


@pytest.mark.parametrize("cost", ["1E-10", "1E+6"])
def test_totals_line_writes_costs_without_exponent(cost: str) -> None:
    total = Totals()
    total.cost_usd = Decimal(cost)
    assert "E" not in columns(totals_line((USER, AGENT), total))[11]
