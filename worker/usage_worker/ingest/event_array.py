"""Events as a numpy array: a record for each event, with a field for each column and what the batch notes about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from uuid import UUID

import numpy as np

from usage_worker.events.columns import COLUMNS, KINDS, MAX_TOKENS, Form

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from usage_worker.store.pair import Pair

    Events = npt.NDArray[np.void]
    """Records of `EVENT`."""
    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]
    Places = npt.NDArray[np.intp]
    """Positions in an array."""

UNKNOWN = -1
"""Stands for NULL in fields of numbers, decimals and texts, none of which is negative."""
RATING = KINDS.index("rating")
"""The field `type` of a rating; that of a use is 0."""
# The largest sum that a fold makes is one of tokens. It fits 64 bits for nine million events. A batch has 500,000 at
# most (`USAGE_BATCH_EVENTS`), and the events of one more portion of 8 MiB, or of one entry (`ShardReader`).
assert MAX_TOKENS * 9_000_000 < 2**63  # noqa: S101

_HOUR = 3_600_000_000
# Where more than one event in so many is chosen, `take` is faster than an index, although it copies the whole column.
_DENSE = 4
# A UUID is two words, the most significant first: they compare like the UUID. All fields have the machine's own order
# of bytes: numpy turns others into it in some operations and not in others.
_FIELDS: dict[Form, tuple[Any, ...]] = {
    Form.UUID: ("u8", (2,)),
    Form.TIME: ("i8",),
    Form.KIND: ("i1",),
    Form.NUMBER: ("i8",),
    Form.DECIMAL: ("i8",),
    Form.TRUTH: ("?",),
    Form.TEXT: ("i4",),
}
EVENT = np.dtype(
    [
        *((column.name, *_FIELDS[column.form]) for column in COLUMNS),
        ("has_conversation", "?"),
        # Its entry's place in the batch, and its own in the entry.
        ("entry", "i4"),
        ("position", "i4"),
        # The id is derived from the entry, which alone identifies the event.
        ("is_anonymous", "?"),
        # It has a key of the application's and no time: the first time of the key decides.
        ("is_untimed", "?"),
        # The cost is not the caller's, but of the price list.
        ("is_priced", "?"),
    ]
)
"""Times are in microseconds since 1970, decimals in units of their last place, texts numbers of a `TextTable`."""


class Columns(NamedTuple):
    """Checked events by columns: ids as 16 bytes each, everything else as in the fields of `EVENT`.

    A column that is missing has the default everywhere.
    """

    events: int
    values: Mapping[str, bytes | Sequence[int]]

    def with_notes(self, **notes: Sequence[int]) -> Columns:
        """Return them with what the batch notes about each event."""
        return Columns(self.events, {**self.values, **notes})


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some events of an array, in an order of their own, without a copy: 35 MB for 200,000 events.

    It is indexed like the array of these events. For ids and whole events `take` needs a tenth of the time of an index.
    """

    array: Events
    places: Places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> np.void: ...
    @overload
    def __getitem__(self, index: str) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice | Flags | Places | list[int]) -> Chosen: ...
    def __getitem__(self, index: int | str | slice | Flags | Places | list[int]) -> np.void | npt.NDArray[Any] | Chosen:
        if isinstance(index, str):
            column: npt.NDArray[Any] = self.array[index]
            is_dense = _DENSE * len(self.places) > len(column)
            return column.take(self.places, axis=0) if is_dense else column[self.places]
        if isinstance(index, int):
            event: np.void = self.array[self.places[index]]
            return event
        return Chosen(self.array, self.places[index])

    def copied(self) -> Events:
        """Return the events as an array."""
        return self.array.take(self.places)


class TextTable:
    """Numbers for the texts of a batch, so that an event takes the same room whatever its model is called."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str | None, int] = {None: UNKNOWN}

    def numbers(self, texts: Sequence[str | None]) -> list[int]:
        """Return the number of each text.

        Raises:
            ValueError: PostgreSQL could not store one.
        """
        for text in set(texts) - self._numbers.keys():
            if text is not None:  # never, but mypy does not know
                self._add(text)
        return list(map(self._numbers.__getitem__, texts))

    def text(self, number: int) -> str | None:
        """Return the text with a number."""
        return None if number == UNKNOWN else self.texts[number]

    def _add(self, text: str) -> None:
        text.encode()  # raises for half a surrogate pair
        if "\0" in text:
            raise ValueError("a text contains U+0000")
        self._numbers[text] = len(self.texts)
        self.texts.append(text)


def array_of(parts: Sequence[Columns]) -> Events:
    """Return the events of all parts in one array, in the order of their entries."""
    events = sum(part.events for part in parts)
    array = np.zeros(events, EVENT)
    for column in COLUMNS:
        if column.form is Form.UUID:
            ids = (part.values.get(column.name, bytes(16 * part.events)) for part in parts)
            array[column.name] = np.frombuffer(b"".join(ids), ">u8").reshape(-1, 2)  # type: ignore[arg-type]  # columns of ids are bytes
        else:
            _fill(array, parts, column.name, _DEFAULTS[column.name])
    for name in ("has_conversation", "is_anonymous", "is_untimed", "entry"):
        _fill(array, parts, name, 0)
    positions = (part.values.get("position", range(part.events)) for part in parts)
    array["position"] = np.fromiter(chain.from_iterable(positions), np.int32, events)
    entries = array["entry"]
    return array if (entries[1:] >= entries[:-1]).all() else array[np.argsort(entries, kind="stable")]


def order_of(*keys: npt.NDArray[Any]) -> Places:
    """Return the places in ascending order of the keys, the first key first; ids are keys of two words."""
    words = [word for key in keys for word in (key.T if key.ndim == 2 else (key,))]  # noqa: PLR2004 - ids have two dimensions
    return np.lexsort(words[::-1])


def starts_of(*keys: npt.NDArray[Any]) -> Places:
    """Return the places at which one of the keys differs from that of the event before, and the first place."""
    differs = np.zeros(len(keys[0]), bool)
    differs[:1] = True
    for key in keys:
        changed = key[1:] != key[:-1]
        differs[1:] |= changed[:, 0] | changed[:, 1] if changed.ndim == 2 else changed  # noqa: PLR2004 - ids have two
    return np.flatnonzero(differs)


def uuid_of(words: npt.NDArray[np.uint64]) -> UUID:
    """Return one id."""
    return UUID(int=int(words[0]) << 64 | int(words[1]))


def uuid_texts(ids: npt.NDArray[np.uint64]) -> list[str]:
    """Return ids, given as words, as 32 hexadecimal digits each."""
    text = ids.astype(">u8").tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


def pairs_of(events: Chosen | npt.NDArray[np.void]) -> list[Pair]:
    """Return the user and the agent of each event, or of each row of totals."""
    return list(zip(uuid_texts(events["user_id"]), uuid_texts(events["agent_id"]), strict=True))


def are_in(pairs: Sequence[Pair], wanted: Collection[Pair]) -> Flags:
    """Return which of the pairs are among the wanted ones."""
    return np.fromiter((pair in wanted for pair in pairs), bool, len(pairs))


def days_of(events: Events) -> npt.NDArray[np.datetime64]:
    """Return the UTC day of each event; as text it is `2026-01-31`."""
    return events["occurred_at"].astype("M8[us]").astype("M8[D]")


def hours_of(times: Numbers) -> Numbers:
    """Return the begins of the distinct UTC hours of times, ascending."""
    hours: Numbers = np.unique(times // _HOUR) * _HOUR
    return hours


def time_texts(times: Numbers) -> list[str]:
    """Return times as PostgreSQL reads them, whatever the session's time zone."""
    return [f"{text}Z" for text in np.datetime_as_string(times.astype("M8[us]"))]


def _fill(array: Events, parts: Sequence[Columns], name: str, default: int) -> None:
    """Set a field to the values of the parts, and to the default where one has none."""
    if any(name in part.values for part in parts):
        values = (part.values.get(name, repeat(default, part.events)) for part in parts)
        array[name] = np.fromiter(chain.from_iterable(values), EVENT[name], len(array))
    else:
        array[name] = default


def _default(value: object) -> int:
    return UNKNOWN if value is None else int(value) if isinstance(value, int) else 0


_DEFAULTS = {column.name: _default(column.default) for column in COLUMNS}
