"""Output of the commands: a table on a terminal, lines with tabs elsewhere, JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from rich.console import Console
from rich.text import Text

from usage_worker.cli.output import make_table, print_json, print_json_array, print_lines, print_rows
from usage_worker.wording import moment

HOSTILE = "a\x1b[31m\tb\nc [red]d[/]"


def test_lines_have_tabs_only_between_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("name", "reason"), [("x", HOSTILE), (Text("y", "red"), "")])
    assert capsys.readouterr().out == "x\ta\\x1b[31m\\tb\\nc [red]d[/]\ny\t\n"


def test_headings_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("day", "uses"), [("2026-01-01", "7")], title="days", figures=("uses",), headings_in_lines=True)
    assert capsys.readouterr().out == "day\tuses\n2026-01-01\t7\n"


def test_long_cell_is_escaped_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([("payload", "\U000e0001\x00" * 5_000)])
    assert capsys.readouterr().out == "payload\t" + r"\U000e0001\x00" * 5_000 + "\n"


def test_none_is_empty_in_lines_and_a_dash_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ("x", None, 0)
    print_rows(("name", "at", "uses"), [row])
    print_lines([row])
    assert capsys.readouterr().out == "x\t\t0\n" * 2
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_rows(("name", "at", "uses"), [row], forms={"at": str, "uses": str})
    assert capsys.readouterr().out.splitlines()[-1].split() == ["x", "-", "0"]


def test_narrow_table_leaves_spare_columns_out_before_it_folds_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    at = datetime(2026, 1, 31, 23, tzinfo=UTC)

    def shown(width: int) -> list[list[str]]:
        monkeypatch.setenv("COLUMNS", str(width))
        row = ("x", at, "first", "second")
        print_rows(("name", "at", "one", "two"), [row], forms={"at": moment}, spare=("two", "one"))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        return [line.split() for line in plain.splitlines() if line.strip()]

    time = ["2026-01-31", "23:00:00", "UTC"]
    assert shown(60)[-1] == ["x", *time, "first", "second"]
    assert shown(48)[-1] == ["x", *time, "first"]
    assert shown(38)[-1] == ["x", *time]
    assert shown(24)[-2:] == [["x", time[0]], time[1:]]
    # A paragraph leaves nothing out.
    assert [words[0] for words in shown(20)] == ["name", "at", "23:00:00", "one", "two"]


@pytest.mark.parametrize("title", [None, "a title"])
def test_table_shows_cells_literally(title: str | None) -> None:
    console = Console(width=120, force_terminal=True, color_system="standard", record=True)
    with console.capture() as captured:
        console.print(make_table(("name", "reason"), [("x", HOSTILE), ("y", Text(HOSTILE, "red"))], title=title))
    shown = captured.get()
    assert "a\x1b[31m\t" not in shown
    # Once in the colour of the terminal, once in red.
    assert shown.count(r"a\x1b[31m\tb\nc [red]d[/]") == 2
    assert shown.count("\x1b[31ma") == 1
    assert ("a title" in shown) == (title is not None)


def test_table_without_headings() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as captured:
        console.print(make_table((), [("beat", "no heartbeat yet")]))
    assert captured.get().split("\n")[0].split() == ["beat", "no", "heartbeat", "yet"]


def test_array_of_json_is_that_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for documents in ([], [{"a": 1}], [{"id": UUID(int=7)}, None, [1, 2]]):
        print_json_array(iter(documents))
        streamed = capsys.readouterr().out
        print_json(documents)
        assert streamed == capsys.readouterr().out


def test_json_values(capsys: pytest.CaptureFixture[str]) -> None:
    identity = UUID(int=7)
    print_json({"at": datetime(2026, 1, 31, 23, tzinfo=UTC), "cost": Decimal("1E-10"), "id": identity, "none": None})
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {
        "at": "2026-01-31T23:00:00+00:00",
        "cost": "0.0000000001",
        "id": str(identity),
        "none": None,
    }
