"""Files of events: how lines are read and reported, and that the same file always yields the same events."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from usage_worker.errors import SettingsError
from usage_worker.publisher.event_files import FieldMapping, Line, read_lines

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


def test_decimals_never_become_binary_floats() -> None:
    assert lines_of('{"cost_usd": 0.1000000001}')[0].fields == {"cost_usd": "0.1000000001"}


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
    assert problems(lines) == {2: "has no field t, which --map names"}


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
