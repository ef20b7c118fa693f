"""Files of events: their encoding, and their lines as NDJSON, JSON or CSV."""

from __future__ import annotations

import codecs
import io
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import ArgumentError
from usage_worker.events.columns import NAMES
from usage_worker.events.values import json_decoder
from usage_worker.printable import printable
from usage_worker.publisher.csv_rows import Row, csv_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import TextIO

    from _typeshed import WriteableBuffer

# Byte order marks with the encodings that read them. The mark of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT = (
    (b"\x1f\x8b", "is compressed; run `gunzip -c FILE | usage-worker publish -`"),
    (b"PK\x03\x04", "is a ZIP archive or a workbook; unpack it, or save the table as CSV"),
    (b"PAR1", "is Parquet; convert it to NDJSON or CSV"),
)
_LONGEST_MARK = 4
# What stands for a byte that is not text. Python's own handler, for UTF-8, raises for bytes below 0x80, which can be
# half a character of UTF-16.
_UTF8_BYTE, _WIDE_BYTE = 0xDC00, 0xDD00
_WIDE_HANDLER = "usage_worker.wide"
_CONVERT = "run `iconv -f LATIN1 -t UTF-8 FILE | usage-worker publish -` if it is Latin-1"
_SPACE = " \t\r\n"
_WORD = re.compile(r"\w+")
_DECODER = json_decoder()


class Line(NamedTuple):
    """One event of a file: number of its first line, from 1, its fields, and its problem where it could not be read.

    `is_left_out` where what it holds is not an event, and need not be one.
    """

    number: int
    fields: dict[str, Any]
    problem: str = ""
    is_left_out: bool = False


class _Begun(io.RawIOBase):
    """A file again from its start, of which some bytes have been read."""

    def __init__(self, start: bytes, rest: io.BufferedReader[Any]) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._start:
            return self._rest.readinto1(buffer)
        view = memoryview(buffer)
        count = min(len(view), len(self._start))
        view[:count], self._start = self._start[:count], self._start[count:]
        return count


def open_text(binary: io.BufferedReader[Any]) -> TextIO:
    """Return the text of a file: UTF-8, or what its byte order mark names.

    Bytes that are not text become the problem of their line alone.

    Raises:
        ArgumentError: the file holds no text, or UTF-16 without a byte order mark.
    """
    start = binary.read(_LONGEST_MARK)  # `peek` may have less: the first write to a pipe can be one byte
    for signature, problem in _NOT_TEXT:
        if start.startswith(signature):
            raise ArgumentError(f"the file {problem}")
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raise ArgumentError("the file is not UTF-8; run `iconv -f UTF-16LE -t UTF-8 FILE | usage-worker publish -`")
    codecs.register_error(_WIDE_HANDLER, _escape_wide)
    errors = "surrogateescape" if encoding.startswith("utf-8") else _WIDE_HANDLER
    return io.TextIOWrapper(io.BufferedReader(_Begun(start, binary)), encoding=encoding, errors=errors, newline="")


def read_lines(file: TextIO, *, is_csv: bool, wanted: Collection[str] = ()) -> Iterator[Line]:
    """Yield the lines of a file; an empty CSV cell is None, an unknown value.

    JSON is an object in each line, or an array of objects.

    Raises:
        ArgumentError: the file has another format than `is_csv` says, or the header of a CSV file has a column twice or
            lacks one of the columns `wanted`.
    """
    if is_csv:
        return _csv_lines(file, wanted)
    start: list[str] = []
    for text in file:
        start.append(text)
        if text.strip(_SPACE):
            break
    first = start[-1].lstrip(_SPACE) if start else ""
    if first[:1] not in ("{", "[") and not {*NAMES, *wanted}.isdisjoint(_WORD.findall(first)):
        raise ArgumentError("the file is CSV; give --csv, or name it *.csv")
    lines = chain(start, file)
    return _array_lines(lines) if first.startswith("[") else _json_lines(lines)


def _csv_lines(file: TextIO, wanted: Collection[str]) -> Iterator[Line]:
    rows = csv_rows(file)
    header = next(rows, Row(1, [], "is missing"))
    names = header.cells
    _check_header(header, wanted)
    for number, cells, reason in rows:
        problem = reason or _bad_byte("".join(cells))
        # A missing column must be a problem, not a silent default.
        if not problem and len(cells) != len(names):
            problem = f"has a different number of columns than the header ({len(cells)}, not {len(names)})"
        # A table may end in columns without a name, as long as they are empty.
        fields = (
            {name: cell or None for name, cell in zip(names, cells, strict=True) if name or cell} if not problem else {}
        )
        yield Line(number, fields, problem)


def _check_header(header: Row, wanted: Collection[str]) -> None:
    names = header.cells
    if problem := header.problem or _bad_byte("".join(names)):
        raise ArgumentError(f"the header line {problem}")
    if names[0].lstrip(_SPACE)[:1] in ("{", "["):
        raise ArgumentError("the file is JSON; leave out --csv, and name it *.ndjson or *.json")
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ArgumentError(f"the header line has the column {printable(twice[0])!r} twice; rename one of them")
    if absent := [name for name in wanted if name not in names]:
        raise ArgumentError(f"--map or --from: no column {absent[0]}; there are {printable(', '.join(names))}")


def _json_lines(lines: Iterator[str]) -> Iterator[Line]:
    for number, text in enumerate(lines, start=1):
        if text.strip(_SPACE):
            yield _json_line(number, text)


def _json_line(number: int, text: str) -> Line:
    if problem := _bad_byte(text):
        return Line(number, {}, problem)
    try:
        return _line(number, _DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        return Line(number, {}, _not_json(error))


def _array_lines(lines: Iterator[str]) -> Iterator[Line]:
    """Yield the objects of an array, with the numbers of the lines at which they begin."""
    text = "".join(lines)
    at = text.index("[") + 1
    number = 1 + text.count("\n", 0, at)
    while True:
        start = _skip(text, at, _SPACE + ",")
        number += text.count("\n", at, start)
        if text[start : start + 1] == "]":
            break
        try:
            item, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            yield Line(number, {}, f"{_not_json(error)}; nothing after it is read: write one object per line")
            return
        yield _line(number, item) if not (problem := _bad_byte(text[start:at])) else Line(number, {}, problem)
        number += text.count("\n", start, at)
    if text[start + 1 :].strip(_SPACE):
        yield Line(number, {}, "nothing after the end of the array is read: write one object per line")


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _line(number: int, item: Any) -> Line:
    return Line(number, item) if isinstance(item, dict) else Line(number, {}, "is not a JSON object")


def _not_json(error: Exception) -> str:
    return f"is not JSON: {'it is nested too deeply' if isinstance(error, RecursionError) else error}"


def _bad_byte(text: str) -> str:
    """Return the problem of a text with bytes that the file's encoding does not have, or an empty string."""
    if text.isascii():
        return ""
    for code in map(ord, text):
        if _UTF8_BYTE + 0x80 <= code <= _UTF8_BYTE + 0xFF:
            return f"is not UTF-8 (byte 0x{code - _UTF8_BYTE:02x}); {_CONVERT}"
        if _WIDE_BYTE <= code <= _WIDE_BYTE + 0xFF:
            return "is not valid UTF-16 or UTF-32; a character of it is cut or damaged"
    return ""


def _escape_wide(error: UnicodeError) -> tuple[str, int]:
    """Handle bytes that are not UTF-16 or UTF-32 (the interface of `codecs.register_error`)."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(_WIDE_BYTE + byte) for byte in error.object[error.start : error.end]), error.end
