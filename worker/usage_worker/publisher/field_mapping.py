"""How the fields of a file's lines become the fields of events: names, times and identities."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from pydantic_core import PydanticCustomError

from usage_worker.errors import ArgumentError
from usage_worker.events.columns import NAMES
from usage_worker.events.values import datetime_of
from usage_worker.publisher.event_files import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# PostgreSQL's NULL in the text form of COPY.
_NULL = r"\N"


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
        read_row: returns further event fields of a line that holds something else than an event, also instead of its
            own fields of the same names; of those then only the ones in `columns` are taken. None leaves the line out.
    """

    columns: dict[str, str]
    constants: dict[str, str]
    assume_utc: bool = False
    start_at: datetime | None = None
    draw_pairs: int = 0
    read_row: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None

    def events(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Yield the lines with the fields of events, or with their problem.

        Raises:
            ArgumentError: all times are to be moved, and a line before the first one cannot be read.
        """
        pairs = _zipf_pairs(self.draw_pairs) if self.draw_pairs else None
        shift: timedelta | None = None
        for line in lines:
            # Drawn for bad lines also: repairing one must not give the others new identities.
            drawn = dict(zip(("user_id", "agent_id"), next(pairs), strict=True)) if pairs else {}
            try:
                if (renamed := self._rename(line)) is None:
                    yield line._replace(is_left_out=True)
                    continue
                fields = renamed | self.constants | drawn
                when = self._time(fields)
                if when is not None:
                    if shift is None:
                        shift = self.start_at - when if self.start_at else timedelta()
                    fields["occurred_at"] = _moved(when, shift)
                    # Published twice, a recording counts once: the place and the text of a line give its identity.
                    fields.setdefault("event_id", str(uuid5(NAMESPACE_OID, f"{line.number} {sorted(fields.items())}")))
            except ValueError as error:
                yield self._bad(line, str(error), shift)
            except Exception as error:  # noqa: BLE001 - one line must not stop a file
                yield self._bad(line, f"cannot be read: {type(error).__name__}: {error}", shift)
            else:
                yield Line(line.number, fields)

    def _bad(self, line: Line, problem: str, shift: timedelta | None) -> Line:
        if self.start_at and shift is None:
            # Repaired, it would give all others another time, and with it another identity.
            raise ArgumentError(f"line {line.number}: {problem}; --start-at needs the first time: repair it")
        return line._replace(problem=problem)

    def _rename(self, line: Line) -> dict[str, Any] | None:
        """Return the known values of the line, by event field; None where it is left out."""
        if line.problem:
            raise ValueError(line.problem)
        known = {name: cell for name, cell in line.fields.items() if cell is not None}
        if not self.columns:
            return known
        if absent := [column for column in self.columns.values() if column not in line.fields]:
            raise ValueError(f"has no field {absent[0]}, which --map or --from names")
        taken = set(self.columns.values())
        if self.read_row:
            known = {name: cell for name, cell in known.items() if cell not in ("", _NULL)}
            read = self.read_row(known)
            if read is None:
                return None
            kept = {name: value for name, value in read.items() if value is not None}
            known |= kept
        else:
            kept = {name: cell for name, cell in known.items() if name in NAMES and name not in taken}
        return kept | {name: known[column] for name, column in self.columns.items() if column in known}

    def _time(self, fields: dict[str, Any]) -> datetime | None:
        value = fields.get("occurred_at")
        if value is None:
            return None
        try:
            when = datetime_of(value)
        except PydanticCustomError as error:
            column = (self.columns | dict.fromkeys(self.constants)).get("occurred_at")
            named = f" (column {column})" if column else ""
            raise ValueError(f"occurred_at: {error.message()}{named}") from None
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
