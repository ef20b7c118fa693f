"""The canonical form of events on the wire, which our publisher writes and `load` reads.

An event in canonical form is a row of the ledger, as a JSON array. It needs no conversion: its ids, times and decimals
are already the text that the ledger takes, so that it only has to be validated, which pydantic-core does for a whole
entry in one call. Other producers write an object with the fields of `Event`, in any notation of a UUID, a time or a
number; it is read through `Event` (see `values`). Both result in the same `Record`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache, wraps
from time import time_ns
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from pydantic import FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from uuid_utils import uuid7

from usage_worker.errors import EventRefusedError
from usage_worker.events.event import (
    COST_TEXT,
    EVENT,
    FIELDS,
    REQUIRED,
    STARS_TEXT,
    VALUES,
    Count,
    Kind,
    Messages,
    Milliseconds,
    Model,
    Record,
    explain,
    identity_of,
    refusal,
    row_of,
    time_text,
    values_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from usage_worker.events.event import Values, Window

T = TypeVar("T")

Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
# Only days that exist: PostgreSQL would refuse any other in the middle of a batch.
_LEAP_YEAR = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DAY_OF_YEAR = (
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DAY = rf"([0-9]{{4}}-{_DAY_OF_YEAR}|{_LEAP_YEAR}-02-29)"
Time = Annotated[str, Field(pattern=rf"^{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{{6}}Z$")]
CostText = Annotated[str, Field(pattern=COST_TEXT)]
StarsText = Annotated[str, Field(pattern=STARS_TEXT)]


# The types of the fields of a `Record`.
Row = tuple[
    Uuid,
    Time,
    Kind,
    Uuid,
    Uuid,
    Messages,
    Count,
    Count,
    Count,
    CostText | None,
    Milliseconds | None,
    bool,
    Uuid | None,
    Model | None,
    StarsText | None,
]

# The first bad event decides: the errors of 100,000 would take seconds and hundreds of megabytes.
_ENTRY = TypeAdapter(Annotated[list[Row], FailFast()])
_ROW = TypeAdapter(Row).validator
_KNOWN = frozenset(FIELDS)


class Prepared(NamedTuple):
    """An event that is ready to be sent; `body` is its canonical form.

    `time_is_ours` where the application gave the event a key and no time: the time of its first delivery counts then.
    """

    event_id: str
    user_id: UUID
    body: bytes
    time_is_ours: bool = False


def _refusing(form: Callable[[T, Window], Prepared]) -> Callable[[T, Window], Prepared]:
    """Refuse the event whatever exception its values raise: their methods are the application's."""

    @wraps(form)
    def guarded(values: T, window: Window) -> Prepared:
        try:
            return form(values, window)
        except EventRefusedError:
            raise
        except Exception as error:
            raise EventRefusedError(f"reading its values raised {type(error).__name__}") from error

    return guarded


@_refusing
def prepare(fields: Mapping[str, Any], window: Window) -> Prepared:
    """Check an application's fields, fill in identity and time, and serialise the event.

    Raises:
        EventRefusedError: a field is unknown, missing, of the wrong type or out of bounds; the message names it.
    """
    if not isinstance(fields, dict) or not REQUIRED <= fields.keys() <= _KNOWN:
        _checked(EVENT, fields)
    return complete(values_of(fields), window)


def prepare_rating(fields: Mapping[str, Any], window: Window) -> Prepared:
    """Prepare a rating; see `prepare`."""
    return prepare({**fields, "type": "rating"}, window)


@_refusing
def complete(values: Values, window: Window) -> Prepared:
    """Prepare an event from the values of all fields in their order; see `prepare`."""
    values = _checked(VALUES, values)
    event_id, occurred_at, _, user_id = values[:4]
    if reason := refusal(values, window):
        raise EventRefusedError(reason)
    identity = str(uuid7() if event_id is None else identity_of(event_id))
    row = row_of(values, identity, _now_text() if occurred_at is None else time_text(occurred_at))
    return Prepared(identity, user_id, to_json(row), event_id is not None and occurred_at is None)


def _checked(adapter: TypeAdapter[T], values: Any) -> T:
    try:
        checked: T = adapter.validator.validate_python(values)
    except ValidationError as error:
        raise EventRefusedError(explain(error)) from None
    return checked


def _now_text() -> str:
    seconds, microseconds = divmod(time_ns() // 1000, 1_000_000)
    return f"{_second_text(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=2)
def _second_text(seconds: int) -> str:
    """Return the text of a second; cached, since thousands of events share one and formatting is slow."""
    return time_text(datetime.fromtimestamp(seconds, UTC))[: len("2026-01-31T23:59:59")]


def load(body: bytes) -> list[Record]:
    """Parse an entry in canonical form to the rows of the ledger.

    The caller must check the acceptance window, and that ratings are where they belong.

    Raises:
        pydantic.ValidationError: an event is invalid or not in canonical form.
    """
    return list(map(Record._make, _ENTRY.validate_json(body, strict=True)))


def load_row(item: Any) -> Record | None:
    """Return an item of a parsed entry as a row of the ledger, as `load` does; None if it is not in canonical form."""
    if not isinstance(item, list) or len(item) != len(Record._fields):
        return None
    try:
        return Record._make(_ROW.validate_python(tuple(item), strict=True))
    except ValidationError:
        return None


def spelled_out(item: Any) -> Any:
    """Return a row as an object with the fields of `Event`; return anything else unchanged."""
    if not isinstance(item, list) or len(item) != len(Record._fields):
        return item
    return {name: value for name, value in zip(Record._fields, item, strict=True) if value is not None}
