"""The parameters of `GET /api/v1/usage`."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from usage_worker.errors import ParameterError
from usage_worker.events.columns import MAX_MODEL
from usage_worker.http.parameters import date_of, integer_of, read_parameters
from usage_worker.store.usage_totals import GROUPS, Place, TotalsQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usage_worker.store.usage_totals import Group

DEFAULT_DAYS = 30
DEFAULT_ROWS, MAX_ROWS = 100, 1_000
NAMES = ("user_id", "agent_id", "from", "to", "group_by", "limit", "cursor")


class UsageQuery(NamedTuple):
    """What is asked for.

    Attributes:
        totals: days and groups.
        rows: the greatest number of rows.
        user: whose usage, in any notation; None for all.
        agent: likewise.
        digest: the same for each page of the query.
    """

    totals: TotalsQuery
    rows: int
    user: str | None
    agent: str | None
    digest: str


def read_query(query: bytes, ledger_days: int) -> UsageQuery:
    """Read the parameters of a request.

    Args:
        query: of the URL, which may have UTF-8 as it is or encoded.
        ledger_days: how many days up to today the ledger keeps.

    Raises:
        ParameterError: one is unknown, twice there or wrong.
    """
    given = read_parameters(query, NAMES)
    group_by = _groups(given)
    first, last = _days(given, ledger_days if "model" in group_by else None)
    rows, digest = integer_of(given, "limit", MAX_ROWS, DEFAULT_ROWS), _digest(given, group_by)
    totals = TotalsQuery(first, last, group_by, after=_place(given, digest))
    return UsageQuery(totals, rows, given.get("user_id"), given.get("agent_id"), digest)


def cursor_of(place: Place, digest: str) -> str:
    """Return the cursor of the page behind a place, for a query of this digest."""
    texts = [place.day.isoformat(), str(place.user_id), str(place.agent_id), place.model, digest]
    return urlsafe_b64encode(json.dumps(texts).encode()).decode().rstrip("=")


def _digest(given: Mapping[str, str], group_by: Sequence[Group]) -> str:
    # As given: the default of the days moves at midnight, perhaps between two pages.
    texts = [given.get(name) for name in ("user_id", "agent_id", "from", "to")]
    return sha256(json.dumps([*texts, *group_by]).encode()).hexdigest()[:8]


def _groups(given: Mapping[str, str]) -> tuple[Group, ...]:
    names = given["group_by"].split(",") if "group_by" in given else []
    if len(set(names)) < len(names) or not set(names) <= GROUPS.keys():
        raise ParameterError("group_by", f"any of {', '.join(GROUPS)}, each once, with commas between them")
    return tuple(group for group in GROUPS if group in names)


def _days(given: Mapping[str, str], ledger_days: int | None) -> tuple[date, date]:
    """Return the first and the last day; `ledger_days` where both must be days of the ledger."""
    today = datetime.now(UTC).date().toordinal()
    oldest = 1 if ledger_days is None else today - ledger_days + 1
    last = date_of(given, "to") or date.fromordinal(today)
    first = date_of(given, "from") or date.fromordinal(max(last.toordinal() - DEFAULT_DAYS + 1, oldest))
    for name, day in (("from", first), ("to", last)):
        if day.toordinal() < oldest:
            kept = date.fromordinal(oldest)
            raise ParameterError(name, f"models are known from {kept} on, as long as the ledger keeps its days")
    if first > last:
        raise ParameterError("from", "later than the last day")
    return first, last


def _place(given: Mapping[str, str], digest: str) -> Place | None:
    text = given.get("cursor")
    if text is None:
        return None
    try:
        texts = json.loads(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        day, user_id, agent_id, model, of_query = texts
        if of_query != digest or len(model.encode()) > 4 * MAX_MODEL or "\x00" in model:
            raise ValueError
        return Place(date.fromisoformat(day), UUID(user_id), UUID(agent_id), model)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ParameterError("cursor", "is not one of a page of this query") from None
