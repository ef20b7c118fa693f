"""Events of columns as objects with the fields of `Event`: for people, and for what cannot be read by columns."""

from __future__ import annotations

from typing import Any

from usage_worker.events.columns import COLUMNS, LAST_TIME, MAX_ENTRY_EVENTS, Form
from usage_worker.events.event import time_text
from usage_worker.events.values import decimal_text

_WRITTEN = {Form.TIME: time_text, Form.DECIMAL: decimal_text}
_IN_UNITS = {column.name: _WRITTEN[column.form] for column in COLUMNS if column.form in _WRITTEN}


def spelled_out(columns: Any) -> list[dict[str, Any]]:
    """Return the events of parsed columns, which may hold anything, as objects; a column that is null is missing.

    Raises:
        ValueError: they are not arrays of one length, or have too many events.
    """
    given = {name: it for name, it in columns.items() if it is not None} if isinstance(columns, dict) else {}
    if not given or not all(isinstance(it, list) for it in given.values()):
        raise ValueError("must be a JSON object of arrays")
    lengths = {len(values) for values in given.values()}
    if max(lengths) > MAX_ENTRY_EVENTS:  # an object takes a hundred times the bytes of its value
        raise ValueError(f"more than {MAX_ENTRY_EVENTS} events")
    if len(lengths) > 1:
        raise ValueError("the columns must have the same length")
    return [_spelled_out(dict(zip(given, values, strict=True))) for values in zip(*given.values(), strict=True)]


def _spelled_out(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with its times and decimals as text; what is not a number of units, as text that is refused."""
    for name, written in _IN_UNITS.items():
        value = event.get(name)
        if value is not None:
            # Decimals, too: it is more than any that is accepted.
            is_units = type(value) is int and abs(value) <= LAST_TIME
            event[name] = written(value) if is_units else f"not an integer, or too large: {value!r:.40}"
    return {name: value for name, value in event.items() if value is not None}
