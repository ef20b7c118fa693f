"""Whatever a file, a setting or the id of an entry holds, its reader answers or refuses; nothing else is raised."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usage_worker.errors import SettingsError
from usage_worker.publisher.event_files import Line, open_text, read_lines
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.queue.entry import RawEntry
from usage_worker.queue.url import parse_redis_url
from usage_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# What makes files strange: quotes, delimiters, line ends, brackets, byte order marks, bytes that are no UTF-8.
SCRAPS = st.sampled_from(
    [
        *b'" , ; | { } [ ] : \xff \x00 \xef\xbb\xbf user_id occurred_at -1 1e999 NaN'.split(),
        *(b"\n", b"\r\n", b"\r", b"\t", b" ", b'{"messages":1}', b"2026-01-31T12:00:00Z", b"\\ud83d"),
    ]
)
FILES = st.lists(SCRAPS | st.binary(max_size=3), max_size=60).map(b"".join)
MAPPING = FieldMapping({}, {"model": "m"}, assume_utc=True, draw_pairs=3)


def lines_of(content: bytes, *, is_csv: bool) -> Iterator[Line]:
    with suppress(SettingsError):
        yield from MAPPING.events(read_lines(open_text(io.BufferedReader(io.BytesIO(content))), is_csv=is_csv))


@given(FILES, st.booleans())
def test_every_file_is_read_or_refused(content: bytes, is_csv: bool) -> None:
    numbers = [line.number for line in lines_of(content, is_csv=is_csv)]
    assert numbers == sorted(numbers)
    assert all(1 <= number <= content.count(b"\n") + content.count(b"\r") + 2 for number in numbers)


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=8), min_size=1, max_size=9))
def test_no_stray_quote_hides_a_line(cells: list[str]) -> None:
    """Every line of a table of two columns is an event or a problem, wherever quotes stand."""
    plain = [cell.replace(",", "").replace("\r", "") for cell in cells]
    content = "messages,model\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(plain))
    seen = {line.number for line in lines_of(content.encode(), is_csv=True)}
    # A cell that opens and closes its quotes may span lines.
    if not any(cell.startswith('"') for cell in plain):
        assert seen == set(range(2, len(plain) + 2))
    else:
        assert 2 in seen


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_every_id_of_an_entry_has_a_time(first: int, second: int) -> None:
    assert RawEntry(f"{first}-{second}", {}).added_at.tzinfo is not None


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30) | st.sampled_from(
    [
        "",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "true",
        "off",
        "* * * * *",
        "redis://:hush@h:x/0",
        "postgresql://u:hush@[::1/x",
    ]
)


@example({"id_namespace": "\n"})
@given(st.dictionaries(st.sampled_from([*Settings.model_fields]), VALUES, min_size=1, max_size=4))
def test_every_setting_is_taken_or_refused_in_one_line(values: dict[str, str]) -> None:
    names = {name: name.upper() if name.endswith("_url") else f"USAGE_{name.upper()}" for name in values}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setitem(os.environ, names[name], value)
        refusal = ""
        try:
            parse_redis_url(load_settings().redis_url)
        except SettingsError as error:
            refusal = str(error)
    assert "\n" not in refusal
    assert "hush" not in refusal


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda it: st.lists(it) | st.dictionaries(st.text(max_size=5), it),
        max_leaves=20,
    )
)
def test_every_json_document_is_read(document: object) -> None:
    text = json.dumps(document)
    found = list(lines_of(text.encode(), is_csv=False))
    items = document if isinstance(document, list) else [document]
    assert len(found) == len(items) or any(line.problem for line in found)
