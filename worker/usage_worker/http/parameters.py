"""The parameters of a request's query."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from usage_worker.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

D = TypeVar("D", int, None)

_INTEGER = re.compile("[0-9]{1,9}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def read_parameters(query: bytes, names: Collection[str]) -> dict[str, str]:
    """Return the parameters.

    Args:
        query: of the URL, which may have UTF-8 as it is or encoded.
        names: those that there are.

    Raises:
        ParameterError: one is unknown, twice there or not UTF-8.
    """
    escaped = "surrogateescape"
    parameters = parse_qsl(query.decode("utf-8", escaped), keep_blank_values=True, errors=escaped)
    given = dict(parameters)
    for name, text in given.items():
        if name not in names:
            raise ParameterError(name, f"unknown; there are {', '.join(names)}")
        if any("\udc80" <= character <= "\udcff" for character in text):
            raise ParameterError(name, "is not UTF-8")
    if len(given) < len(parameters):
        raise ParameterError(next(name for name, _ in parameters if _count(parameters, name) > 1), "given twice")
    return given


def date_of(given: Mapping[str, str], name: str, kind: str = "UTC day") -> date | None:
    """Return the day that a parameter names, None where it is not given.

    Raises:
        ParameterError: it is not a date.
    """
    text = given.get(name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text if _DATE.fullmatch(text) else "")
    except ValueError:
        raise ParameterError(name, f"must be a {kind} like 2026-01-31") from None


def integer_of(given: Mapping[str, str], name: str, most: int, default: D) -> int | D:
    """Return the integer from 1 to `most` that a parameter names, `default` where it is not given.

    Raises:
        ParameterError: it is not an integer in that range.
    """
    text = given.get(name)
    if text is None:
        return default
    number = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= number <= most:
        raise ParameterError(name, f"must be an integer from 1 to {most}")
    return number


def _count(parameters: Sequence[tuple[str, str]], name: str) -> int:
    return sum(other == name for other, _ in parameters)
