"""Files of events: how lines are read and reported, and that the same file always yields the same events."""

from __future__ import annotations

import gzip
import io
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usage_worker.errors import ArgumentError, SettingsError
from usage_worker.publisher.event_files import Line, open_text, read_lines
from usage_worker.publisher.field_mapping import FieldMapping

USER, AGENT = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
PLAIN = FieldMapping({}, {})


def lines_of(text: str, mapping: FieldMapping = PLAIN, *, is_csv: bool = False) -> list[Line]:
    lines = read_lines(io.StringIO(text, newline=""), is_csv=is_csv, wanted=mapping.columns.values())
    return list(mapping.events(lines))


def problems(lines: list[Line]) -> dict[int, str]:
    return {line.number: line.problem for line in lines if line.problem}


def test_bad_json_line_keeps_its_number_and_others_are_read() -> None:
    lines = lines_of('{"messages": 1}\n\n{"messages"\n[1]\n' + "[" * 100_000 + '\r\n{"messages": 2}\n')
    assert problems(lines).keys() == {3, 4, 5}
    assert [(line.number, line.fields) for line in lines if not line.problem] == [
        (1, {"messages": 1}),
        (6, {"messages": 2}),
    ]


def test_array_is_read_with_line_numbers() -> None:
    lines = lines_of('\n[\n  {"messages": 1,\n   "model": "a"},\n  7, {"messages": 2}\n]\n')
    assert [(line.number, line.fields) for line in lines if not line.problem] == [
        (3, {"messages": 1, "model": "a"}),
        (5, {"messages": 2}),
    ]
    assert problems(lines) == {5: "is not a JSON object"}


@pytest.mark.parametrize(
    ("text", "number"),
    [('[{"messages": 1},\n{"messages": 2\n', 2), ('[{"messages": 1}\n', 2), ('[{"messages": 1}]\n{"messages": 2}', 1)],
)
def test_array_that_ends_early_or_late_is_reported(text: str, number: int) -> None:
    lines = lines_of(text)
    assert lines[0].fields == {"messages": 1}
    assert problems(lines).keys() == {number}
    assert "nothing after" in lines[1].problem


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_recognized(delimiter: str) -> None:
    text = "messages,model\n1,a\n".replace(",", delimiter)
    assert lines_of(text, is_csv=True) == [Line(2, {"messages": "1", "model": "a"})]
    assert lines_of(f"\n\r\n{text}", is_csv=True) == [Line(4, {"messages": "1", "model": "a"})]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_stray_quote_takes_no_other_line(end: str) -> None:
    text = "messages,model\n" + "".join(f"{number},a\n" for number in range(2, 201))
    for stray in ('"5,a', '5,"a', '5,"a"b', '5,""a'):
        lines = lines_of(text.replace("\n5,a\n", f"\n{stray}\n").replace("\n", end), is_csv=True)
        assert problems(lines).keys() == {5}
        assert [line.number for line in lines if not line.problem] == [*range(2, 5), *range(6, 201)]


def test_stray_quote_that_closes_in_another_row_takes_no_other_line() -> None:
    lines = lines_of('model,messages\n"a,1\nb,2\nc,3"\nd,4\n', is_csv=True)
    assert "takes 2 more lines" in problems(lines)[2]
    assert [line.fields["model"] for line in lines if not line.problem] == ["b", "c", "d"]


def test_cell_of_several_lines_is_one_row() -> None:
    assert lines_of('note,model\n"one\ntwo",a\nthree,b\n', is_csv=True) == [
        Line(2, {"note": "one\ntwo", "model": "a"}),
        Line(4, {"note": "three", "model": "b"}),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model,messages,model\na,1,b\n", "has the column 'model' twice"),
        ('{"model": "a"}\n', "the file is JSON"),
        ('"model,messages\n1,2\n', "the header line is not CSV"),
    ],
)
def test_header_with_problem_is_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        lines_of(text, is_csv=True)


def test_csv_read_as_json_is_named_in_one_line() -> None:
    with pytest.raises(SettingsError, match="the file is CSV; give --csv"):
        lines_of("user_id;agent_id\n1;2\n")


def test_empty_columns_without_name_are_left_out() -> None:
    lines = lines_of("messages,,\n1,,\n2,x,\n", is_csv=True)
    assert [line.fields for line in lines] == [{"messages": "1"}, {"messages": "2", "": "x"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encoding_is_recognized(encoding: str) -> None:
    binary = io.BufferedReader(io.BytesIO("model\ncafé 😀\n".encode(encoding)))
    assert list(read_lines(open_text(binary), is_csv=True)) == [Line(2, {"model": "café 😀"})]


def test_byte_that_is_not_utf_8_is_the_problem_of_its_line() -> None:
    for text, is_csv in (
        ("model\na\ncafé\nb\n", True),
        ('{"model": "x"}\n{"model": "a"}\n{"model": "é"}\n{}\n', False),
    ):
        binary = io.BufferedReader(io.BytesIO(text.encode("latin-1")))
        lines = list(read_lines(open_text(binary), is_csv=is_csv))
        assert problems(lines).keys() == {3}
        assert "not UTF-8 (byte 0xe9)" in problems(lines)[3]


@pytest.mark.parametrize(("encoding", "bad"), [("utf-16", b"\x00\xd8"), ("utf-32", b"\x41\xff\xff\x7f")])
def test_damaged_character_is_the_problem_of_its_line(encoding: str, bad: bytes) -> None:
    """Also where the file ends within a character."""
    start, end = "model\na\n".encode(encoding), "\nb\nc".encode(f"{encoding}-{sys.byteorder[0]}e")
    lines = list(read_lines(open_text(io.BufferedReader(io.BytesIO(start + bad + end[:-1]))), is_csv=True))
    assert [line.fields for line in lines] == [{"model": "a"}, {}, {"model": "b"}, {}]
    assert problems(lines).keys() == {3, 5}
    assert "UTF-16" in problems(lines)[3]


@pytest.mark.parametrize(
    "content", ["model\na\n".encode("utf-16-le"), gzip.compress(b"{}", mtime=0), b"PK\x03\x04", b"PAR1"]
)
def test_file_that_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(SettingsError, match="the file"):
        open_text(io.BufferedReader(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("content", "problem"), [("model\na\n".encode("utf-16"), ""), (gzip.compress(b"{}", mtime=0), "is compressed")]
)
def test_file_is_recognized_when_its_bytes_come_one_by_one(content: bytes, problem: str) -> None:
    class Slow(io.BytesIO):
        """As a pipe whose writer writes one byte at a time."""

        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:1])

    with pytest.raises(SettingsError, match=problem) if problem else nullcontext():
        assert list(read_lines(open_text(io.BufferedReader(Slow(content))), is_csv=True)) == [Line(2, {"model": "a"})]


def test_decimals_never_become_binary_floats() -> None:
    assert lines_of('{"cost_usd": 0.1000000001}')[0].fields == {"cost_usd": Decimal("0.1000000001")}


@pytest.mark.parametrize("row", ["1", "1,2,3", "x" * 200_000 + ",2"])
def test_bad_csv_row_is_reported_and_others_are_read(row: str) -> None:
    lines = lines_of(f"messages,model\n1,a\n{row}\n2,b\n", is_csv=True)
    assert problems(lines).keys() == {3}
    assert [line.fields for line in lines if not line.problem] == [
        {"messages": "1", "model": "a"},
        {"messages": "2", "model": "b"},
    ]


def test_empty_cell_and_null_are_unknown_even_if_mapped() -> None:
    mapping = FieldMapping({"cost_usd": "cost"}, {})
    assert lines_of("cost,model\n,\n0.5,a\n", mapping, is_csv=True) == [
        Line(2, {}),
        Line(3, {"cost_usd": "0.5", "model": "a"}),
    ]
    assert lines_of('{"cost": null, "model": null}', mapping) == [Line(1, {})]


def test_map_takes_column_and_omits_unmapped_columns() -> None:
    mapping = FieldMapping({"input_tokens": "messages", "output_tokens": "out"}, {"model": "m"})
    fields = lines_of("messages,out,tokens,other\n7,8,9,10\n", mapping, is_csv=True)[0].fields
    assert fields == {"input_tokens": "7", "output_tokens": "8", "tokens": "9", "model": "m"}


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_csv_file_without_mapped_column_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        lines_of(text, FieldMapping({"tokens": "c"}, {}), is_csv=True)


def test_json_line_without_mapped_field_is_bad() -> None:
    lines = lines_of('{"t": 1}\n{}\n', FieldMapping({"tokens": "t"}, {}))
    assert lines[0].fields == {"tokens": 1}
    assert problems(lines) == {2: "has no field t, which --map or --from names"}


def test_times_need_zone_or_assume_utc() -> None:
    text = "occurred_at\n2026-01-31 12:00:00.1234567\n2026-01-31T12:00:00+02:00\nnoon\n"
    assert problems(lines_of(text, is_csv=True)).keys() == {2, 4}
    lines = lines_of(text, FieldMapping({}, {}, assume_utc=True), is_csv=True)
    assert problems(lines).keys() == {4}
    assert [line.fields["occurred_at"] for line in lines[:2]] == [
        datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(2026, 1, 31, 10, tzinfo=UTC),
    ]


def test_start_at_shifts_all_times_equally() -> None:
    text = "occurred_at\n2023-11-16T18:00:00Z\n2023-11-16T18:00:05Z\n0001-01-01T00:00:00Z\n"
    lines = lines_of(text, FieldMapping({}, {}, start_at=datetime(2026, 1, 1, tzinfo=UTC)), is_csv=True)
    assert [line.fields["occurred_at"] for line in lines[:2]] == [
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC),
    ]
    assert not lines[2].problem
    late = lines_of("occurred_at\n2023-01-01T00:00:00Z\n9999-01-01T00:00:00Z\n", moved_mapping(), is_csv=True)
    assert problems(late).keys() == {3}


@pytest.mark.parametrize("first", ["{", '{"occurred_at": "yesterday"}'])
def test_start_at_needs_the_first_time(first: str) -> None:
    """Repaired, the first line would move all others, which would be counted twice."""
    text = f'{first}\n{{"occurred_at": "2026-01-01T00:00:00Z"}}\n'
    assert problems(lines_of(text)).keys() == {1}
    with pytest.raises(ArgumentError, match=r"line 1: .*; --start-at needs the first time: repair it$"):
        lines_of(text, moved_mapping())


def moved_mapping() -> FieldMapping:
    return FieldMapping({}, {}, start_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_line_with_time_has_stable_identity() -> None:
    line = '{"occurred_at": "2026-01-01T00:00:00Z", "messages": 1}\n'
    text = line + line + line.replace("1}", "2}") + '{"messages": 1}\n'
    first, again = (identities(lines_of(text)) for _ in range(2))
    assert first == again
    assert len(set(first[:3])) == 3  # equal lines in different places are different events
    assert first[3] is None


def test_given_identity_is_kept_and_null_is_none() -> None:
    text = '{{"occurred_at": "2026-01-01T00:00:00Z", "event_id": {}}}\n'
    given, absent = identities(lines_of(text.format('"mine"') + text.format("null")))
    assert given == "mine"
    assert absent is not None


def test_drawn_pairs_are_stable_and_skewed() -> None:
    mapping = FieldMapping({}, {}, draw_pairs=50)
    good = [line.fields["user_id"] for line in lines_of("{}\n" * 2_000, mapping)]
    broken = lines_of("{\n" + "{}\n" * 1_999, mapping)
    assert [line.fields["user_id"] for line in broken[1:]] == good[1:]
    counts = sorted((good.count(user) for user in set(good)), reverse=True)
    assert 30 < len(counts) <= 50
    assert counts[0] > 5 * counts[-1]


def identities(lines: list[Line]) -> list[Any]:
    return [line.fields.get("event_id") for line in lines]
