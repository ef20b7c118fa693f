"""Events as our publisher writes them: an event becomes a row at once, and the rows of a pack become columns later.

An entry of version 2 holds a JSON object with an array for each column (see `columns`), in which a column is left out
where every event has its default. Other producers write version 1, an array of objects with the fields of `Event`.

Where every value has the exact type of its column, the row is made without pydantic, in a third of the time. Whatever
else an application gives is read and refused by `Event`, with the same result for what both accept.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact
from functools import wraps
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from uuid_utils import uuid7

from usage_worker.errors import EventRefusedError
from usage_worker.events.columns import (
    COLUMNS,
    DECIMALS,
    MAX_DOLLARS,
    MAX_MESSAGES,
    MAX_MILLISECONDS,
    MAX_MODEL,
    MAX_PROVIDER,
    MAX_TOKENS,
    NAMES,
    UNIT,
    Form,
)
from usage_worker.events.event import (
    COST_TEXT,
    EVENT,
    REQUIRED,
    VALUES,
    explain,
    identity_of,
    microseconds,
    refusal,
    refusal_of_size,
    row_of,
    time_at,
    values_of,
)
from usage_worker.events.external_ids import ID_PLACES, ExternalId, IdReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from usage_worker.events.columns import Column, Row
    from usage_worker.events.event import Values, Window
    from usage_worker.events.external_ids import ExternalIds

T = TypeVar("T")
Given_contra = TypeVar("Given_contra", contravariant=True)

_KNOWN = frozenset(NAMES)
_MAX_UNITS = MAX_DOLLARS * UNIT
_UNIT = Decimal(UNIT)
_COST = re.compile(COST_TEXT)
# An application may have changed the context of its thread. This one raises where a result is not exact.
_EXACT = Context(prec=60, Emin=-60, Emax=60, traps=[Inexact])
_product, _integer = _EXACT.multiply, _EXACT.to_integral_exact
_UUID_BYTES = 16
_UUID_BITS = 8 * _UUID_BYTES
_READ = {
    Form.UUID: lambda value: UUID(value) if isinstance(value, str) else UUID(int=value),
    Form.TIME: time_at,
    Form.DECIMAL: lambda value: Decimal(value).scaleb(-DECIMALS, _EXACT),
}
_READERS: tuple[Callable[[Any], Any] | None, ...] = tuple(_READ.get(column.form) for column in COLUMNS)


class Prepared(NamedTuple):
    """An event that is ready to be sent.

    `time_is_ours` where the application gave the event a key and no time: the time of its first delivery counts then.
    `made` are its ids that were made of numbers and texts.
    """

    row: Row
    time_is_ours: bool = False
    made: Sequence[ExternalId] = ()

    @property
    def event_id(self) -> str:
        """The identity of the event."""
        return str(self.row[0])

    @property
    def fields(self) -> dict[str, Any]:
        """All fields of the event, with the ids as they were given; no time where that of the first delivery counts."""
        originals = {f"{it.kind}_id": it.external_id for it in self.made}
        return fields_of(self.row) | originals | ({"occurred_at": None} if self.time_is_ours else {})


class Preparation(Protocol[Given_contra]):
    """How an event is prepared; with `ids` its ids may be numbers and texts."""

    def __call__(self, values: Given_contra, window: Window, ids: ExternalIds | None = None, /) -> Prepared: ...


def _refusing(preparation: Preparation[Given_contra]) -> Preparation[Given_contra]:
    """Refuse the event whatever exception its values raise: their methods are the application's."""

    @wraps(preparation)
    def guarded(values: Given_contra, window: Window, ids: ExternalIds | None = None) -> Prepared:
        try:
            return preparation(values, window, ids)
        except EventRefusedError:
            raise
        except Exception as error:
            raise EventRefusedError(f"reading its values raised {type(error).__name__}") from error

    return guarded


@_refusing
def prepare(fields: Mapping[str, Any], window: Window, ids: ExternalIds | None = None) -> Prepared:
    """Check an application's fields, and fill in identity and time; with `ids` they may have any id.

    Raises:
        EventRefusedError: a field is unknown, missing, of the wrong type or out of bounds; the message names it.
    """
    if not isinstance(fields, dict) or not REQUIRED <= fields.keys() <= _KNOWN:
        if reason := refusal_of_size(fields):
            raise EventRefusedError(reason)
        _checked(EVENT, fields, IdReader(ids) if ids else None)
    values = values_of(fields)
    row = exact_row(values)
    return prepare_values(values, window, ids) if row is None else Prepared(row)


def prepare_rating(fields: Mapping[str, Any], window: Window, ids: ExternalIds | None = None) -> Prepared:
    """Prepare a rating; see `prepare`."""
    return prepare({**fields, "type": "rating"}, window, ids)


def exact_row(values: Sequence[Any]) -> Row | None:
    """Return the row of a use without key and time if every value has its column's exact type and bounds, else None.

    A subclass is not exact: its methods are the application's. So may be the number of a UUID, or out of its range.

    Raises:
        AttributeError: a UUID was never initialised.
    """
    # A subscript or a slice for each value would take longer than all checks, and a call costs 0.1 µs: what most events
    # have is compared here, except for texts and costs.
    (
        event_id, occurred_at, kind, user_id, agent_id, messages, read, written, tokens, cached, cache_write, reasoning,
        cost, milliseconds, success, conversation_id, model, provider, rating,
    ) = values  # fmt: skip
    if not (
        type(user_id) is type(agent_id) is UUID
        and (conversation_id is None or type(conversation_id) is UUID)
        and type(user := user_id.int) is type(agent := agent_id.int) is int
        and type(conversation := 0 if conversation_id is None else conversation_id.int) is int
        and not (user | agent | conversation) >> _UUID_BITS  # too large leaves a bit, negative leaves -1
        and event_id is occurred_at is rating is None
        and type(kind) is str
        and kind == "usage"
        and type(messages) is type(read) is type(written) is int
        and 0 <= messages <= MAX_MESSAGES
        and 0 <= read <= MAX_TOKENS
        and 0 <= written <= MAX_TOKENS
        and (read + written <= MAX_TOKENS if tokens is None else _is_count(tokens))
        and (cached is None or _is_count(cached))
        and (cache_write is None or _is_count(cache_write))
        and (reasoning is None or _is_count(reasoning))
        and (milliseconds is None or (type(milliseconds) is int and 0 <= milliseconds <= MAX_MILLISECONDS))
        and type(success) is bool
        and (model is None or _is_plain(model, MAX_MODEL))
        and (provider is None or _is_plain(provider, MAX_PROVIDER))
    ):
        return None
    units = None if cost is None else _exact_units(cost)
    if units is None and cost is not None:
        return None
    return (
        str(uuid7()), time_ns() // 1000, kind, user, agent, messages, read, written, tokens, cached, cache_write,
        reasoning, units, milliseconds, success, None if conversation_id is None else conversation, model, provider,
        None,
    )  # fmt: skip


@_refusing
def prepare_values(values: Values, window: Window, ids: ExternalIds | None = None) -> Prepared:
    """Prepare an event from the values of all fields in their order, in any notation; see `prepare`."""
    if ids and (event := _exact_event(values, ids)):
        return event
    reader = IdReader(ids) if ids else None
    values = _checked(VALUES, values, reader)
    if reason := refusal(values, window):
        raise EventRefusedError(reason)
    event_id, occurred_at = values[:2]
    identity: Any = str(uuid7() if event_id is None else UUID(int=identity_of(event_id).int))
    time = time_ns() // 1000 if occurred_at is None else int(microseconds(occurred_at))
    exact = tuple(_number(value) if isinstance(value, UUID) else value for value in values)
    row = row_of(exact, identity, time)
    return Prepared(row, event_id is not None and occurred_at is None, reader.made if reader else ())


def _exact_event(values: Values, ids: ExternalIds) -> Prepared | None:
    """Return an event whose ids may be numbers and texts, and whose other values are exact; else None."""
    given, made = list(values), []
    for kind, place in ID_PLACES:
        value = given[place]
        if type(value) is not str and type(value) is not int:
            continue
        try:
            external = ids.of_text(kind, str(value))
        except ValueError:
            return None
        given[place] = external.id
        if external.external_id:
            made.append(external)
    row = exact_row(given)
    return None if row is None else Prepared(row, made=made)


def fields_of(row: Row) -> dict[str, Any]:
    """Return all fields of an event by name: UUIDs, an aware time, decimals of US dollars and of a rating."""
    return {
        name: value if value is None or read is None else read(value)
        for name, read, value in zip(NAMES, _READERS, row, strict=True)
    }


def write_columns(values: Sequence[Any]) -> bytes:
    """Return the values of rows, one row after the other, as a JSON object of columns.

    A column in which every row has the default is left out.
    """
    columns = ((column, values[place :: len(COLUMNS)]) for place, column in enumerate(COLUMNS))
    written = (
        b'"%b":%b' % (column.name.encode(), _array(column, cells))
        for column, cells in columns
        if cells[0] != column.default or cells.count(column.default) < len(cells)
    )
    return b"{" + b",".join(written) + b"}"


def _array(column: Column, values: Sequence[Any]) -> bytes:
    if column.form is not Form.UUID:
        return to_json(values)
    if column.name == "event_id":  # text already, since `track` returns it
        digits = ",".join(values).replace("-", "")
    elif None in values:
        return to_json([value if value is None else f"{value:032x}" for value in values])
    else:
        # In one call for all: a third of the time that the text of each takes.
        digits = b"".join([value.to_bytes(_UUID_BYTES, "big") for value in values]).hex(",", -_UUID_BYTES)
    return b'["%b"]' % digits.replace(",", '","').encode()


def _number(identity: UUID) -> int:
    """Return a UUID's number as an integer of our own: of a subclass, its methods are the application's."""
    return UUID(int=int(identity.int)).int


def _checked(adapter: TypeAdapter[T], values: Any, reader: IdReader | None) -> T:
    try:
        checked: T = adapter.validator.validate_python(values, context=reader)
    except ValidationError as error:
        raise EventRefusedError(explain(error)) from None
    return checked


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _is_plain(value: Any, most: int) -> bool:
    return type(value) is str and value.isascii() and len(value) <= most and "\x00" not in value


def _exact_units(cost: Any) -> int | None:
    """Return a cost in units; None where it is neither Decimal nor canonical text, or has other bounds or decimals."""
    if type(cost) is not Decimal:
        if type(cost) is not str or not _COST.fullmatch(cost):
            return None
        cost = Decimal(cost)
    try:
        units = int(_integer(_product(cost, _UNIT)))
    except (ArithmeticError, ValueError):  # more decimals or digits, infinite; not a number
        return None
    return units if 0 <= units <= _MAX_UNITS else None
