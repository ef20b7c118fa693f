"""Files of events, NDJSON or CSV: their lines, the names of their columns, times and identities."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from uuid import NAMESPACE_OID, uuid5

from usage_worker.errors import SettingsError
from usage_worker.events.event import FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import TextIO


class TextArguments(TypedDict):
    """Arguments of `open` that say how bytes become text."""

    encoding: str
    errors: str
    newline: str


# Spreadsheets put a byte order mark first; bytes that are not UTF-8 become the problem of their line alone.
TEXT = TextArguments(encoding="utf-8-sig", errors="surrogateescape", newline="")


class Line(NamedTuple):
    """One event of a file: number of its line, from 1, its fields, and its problem where it could not be read."""

    number: int
    fields: dict[str, Any]
    problem: str = ""


def read_lines(file: TextIO, *, is_csv: bool, wanted: Collection[str] = ()) -> Iterator[Line]:
    """Yield the lines of a file; an empty CSV cell is None, an unknown value.

    Raises:
        SettingsError: the CSV file has no header line, or it lacks one of the columns `wanted`.
    """
    return _csv_lines(file, wanted) if is_csv else _json_lines(file)


def _csv_lines(file: TextIO, wanted: Collection[str]) -> Iterator[Line]:
    number = 0

    def numbered() -> Iterator[str]:
        nonlocal number  # the reader's own count misses lines that it could not read
        for text in file:
            number += 1
            yield text

    reader = csv.DictReader(numbered())
    try:
        names = reader.fieldnames
    except csv.Error as error:
        raise SettingsError(f"the header line is not CSV: {error}") from None
    _check_header(names, wanted)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Line(number, {}, f"is not CSV: {error}")
            continue
        if row is None:
            return
        # DictReader keeps surplus cells under None; a missing column must be a problem, not a silent default.
        if None in row or None in row.values():
            yield Line(number, {}, "has a different number of columns than the header")
        else:
            yield Line(number, {name: cell or None for name, cell in row.items()})


def _check_header(names: Sequence[str] | None, wanted: Collection[str]) -> None:
    if not names:
        raise SettingsError("the file has no header line")
    if absent := [name for name in wanted if name not in names]:
        raise SettingsError(f"--map: no column {absent[0]}; there are {', '.join(names)}")


def _json_lines(file: TextIO) -> Iterator[Line]:
    for number, text in enumerate(file, start=1):
        if text.strip():
            yield _json_line(number, text)


def _json_line(number: int, text: str) -> Line:
    try:
        fields = json.loads(text, parse_float=str)
    except ValueError as error:
        return Line(number, {}, f"is not JSON: {error}")
    except RecursionError:
        return Line(number, {}, "is not JSON: it is nested too deeply")
    return Line(number, fields) if isinstance(fields, dict) else Line(number, {}, "is not a JSON object")


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """How the fields of a line become the fields of an event.

    Unknown values of the file (an empty cell, null) are left out.

    Attributes:
        columns: names in the file, by event field; other columns are left out unless they are event fields.
        constants: values of every event, by event field.
        assume_utc: reads times without a time zone as UTC.
        start_at: time of the first event; all times are moved alike.
        draw_pairs: number of pairs to draw user and agent from; 0 draws none.
    """

    columns: dict[str, str]
    constants: dict[str, str]
    assume_utc: bool = False
    start_at: datetime | None = None
    draw_pairs: int = 0

    def events(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Yield the lines with the fields of events, or with their problem."""
        pairs = _zipf_pairs(self.draw_pairs) if self.draw_pairs else None
        shift: timedelta | None = None
        for line in lines:
            # Drawn for bad lines also: repairing one must not give the others new identities.
            drawn = dict(zip(("user_id", "agent_id"), next(pairs), strict=True)) if pairs else {}
            try:
                fields = self._rename(line) | self.constants | drawn
                when = self._time(fields)
                if when is not None:
                    if shift is None:
                        shift = self.start_at - when if self.start_at else timedelta()
                    fields["occurred_at"] = _moved(when, shift)
                    # Published twice, a recording counts once: the place and the text of a line give its identity.
                    fields.setdefault("event_id", str(uuid5(NAMESPACE_OID, f"{line.number} {sorted(fields.items())}")))
            except ValueError as error:
                yield line._replace(problem=str(error))
            except Exception as error:  # noqa: BLE001 - one line must not stop a file
                yield line._replace(problem=f"cannot be read: {type(error).__name__}: {error}")
            else:
                yield Line(line.number, fields)

    def _rename(self, line: Line) -> dict[str, Any]:
        """Return the known values of the line, by event field."""
        if line.problem:
            raise ValueError(line.problem)
        known = {name: cell for name, cell in line.fields.items() if cell is not None}
        if not self.columns:
            return known
        if absent := [column for column in self.columns.values() if column not in line.fields]:
            raise ValueError(f"has no field {absent[0]}, which --map names")
        taken = set(self.columns.values())
        kept = {name: cell for name, cell in known.items() if name in FIELDS and name not in taken}
        return kept | {name: known[column] for name, column in self.columns.items() if column in known}

    def _time(self, fields: dict[str, Any]) -> datetime | None:
        text = fields.get("occurred_at")
        if text is None:
            return None
        try:
            when = datetime.fromisoformat(str(text))
        except ValueError:
            raise ValueError("occurred_at: is not a time; write it like 2026-01-31T23:59:59Z") from None
        if when.tzinfo is None:
            if not self.assume_utc:
                raise ValueError("occurred_at: has no time zone; --assume-utc reads it as UTC")
            when = when.replace(tzinfo=UTC)
        return when


def _moved(when: datetime, shift: timedelta) -> datetime:
    try:
        return when + shift
    except OverflowError:
        raise ValueError("occurred_at: outside the acceptance window, after it was moved beyond the calendar") from None


def _zipf_pairs(count: int) -> Iterator[tuple[str, str]]:
    """Yield pairs, the k-th with a probability in proportion to 1/k, in the same order every time."""
    random = Random(0)  # noqa: S311 - repeatable, not secret
    pairs = [
        (
            str(uuid5(NAMESPACE_OID, f"drawn user {rank}")),
            str(uuid5(NAMESPACE_OID, f"drawn agent {rank % 10}")),
        )
        for rank in range(count)
    ]
    weights = list(accumulate(1 / (rank + 1) for rank in range(count)))
    while True:
        yield random.choices(pairs, cum_weights=weights)[0]
