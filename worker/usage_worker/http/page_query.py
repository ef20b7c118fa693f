"""The parameters of the page: the days of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import ParameterError
from usage_worker.http.parameters import date_of, integer_of, read_parameters
from usage_worker.reporting import MOST_DAYS
from usage_worker.settings import known_zone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

NAMES = ("from", "to", "days", "zone")


class PageQuery(NamedTuple):
    """The days that are asked for: from the first one to the last one, or a number up to the last one."""

    first: date | None
    last: date | None
    days: int | None
    zone: str


def given_parameters(query: bytes) -> dict[str, str]:
    """Return the parameters of a request that are not empty: a form sends a field without a text as an empty one.

    Raises:
        ParameterError: one is unknown, twice there or not UTF-8.
    """
    return {name: text for name, text in read_parameters(query, NAMES).items() if text}


def page_query(given: Mapping[str, str], zone: str) -> PageQuery:
    """Read the parameters; `zone` is the time zone unless they name one.

    Raises:
        ParameterError: one is wrong.
    """
    days = integer_of(given, "days", MOST_DAYS, None)
    return PageQuery(date_of(given, "from", "day"), date_of(given, "to", "day"), days, _zone(given, zone))


def _zone(given: Mapping[str, str], zone: str) -> str:
    try:
        return known_zone(given.get("zone", zone))
    except ValueError as error:
        raise ParameterError("zone", str(error)) from None
