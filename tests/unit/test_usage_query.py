"""The parameters of the totals over HTTP, and the cursor of a page."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from usage_worker.errors import ParameterError
from usage_worker.http.usage_query import UsageQuery, cursor_of, read_query
from usage_worker.store.usage_totals import Place

LEDGER_DAYS = 90
TODAY = datetime.now(UTC).date()


def read(query: str) -> UsageQuery:
    return read_query(query.encode(), LEDGER_DAYS)


def cursor(place: Place, query: str = "") -> str:
    return cursor_of(place, read(query).digest)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-02-30", "from"),
        ("from=20260101", "from"),
        ("from=0000-01-01", "from"),
        ("to=now", "to"),
        ("to=2026-W01-1", "to"),
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("group_by=hour", "group_by"),
        ("group_by=day,day", "group_by"),
        ("group_by=day,,user", "group_by"),
        ("group_by=", "group_by"),
        ("user_id=%FF", "user_id"),
        ("agent_id=a%E2%82", "agent_id"),
        ("from=%FF", "from"),
        ("%FF=1", "\udcff"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=9999999999999", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%ff", "cursor"),
        ("cursor=W10", "cursor"),
        (f"cursor={cursor(Place(TODAY, UUID(int=1), UUID(int=2), chr(0)))}", "cursor"),
        (f"cursor={cursor(Place(TODAY, UUID(int=1), UUID(int=2), chr(0xD800)))}", "cursor"),
        (f"cursor={cursor(Place(TODAY, UUID(int=1), UUID(int=2), 801 * 'x'))}", "cursor"),
        ("page=1", "page"),
        ("limit=1&limit=2", "limit"),
        ("group_by=model&from=2020-01-01", "from"),
        ("group_by=model&to=2020-01-01", "to"),
    ],
)
def test_wrong_parameter_is_named(query: str, field: str) -> None:
    with pytest.raises(ParameterError) as refused:
        read(query)
    assert refused.value.field == field


def test_defaults_are_the_last_30_days() -> None:
    wanted, today = read(""), datetime.now(UTC).date()
    assert (wanted.totals.first, wanted.totals.last) == (today - timedelta(days=29), today)
    assert (wanted.totals.group_by, wanted.rows) == ((), 100)
    assert read("to=0001-01-05").totals.first == date(1, 1, 1)
    assert read_query(b"group_by=model", 3).totals.first == today - timedelta(days=2)


def test_groups_have_one_order() -> None:
    assert read("group_by=model,agent,day,user").totals.group_by == ("day", "user", "agent", "model")


def test_cursor_is_the_place() -> None:
    place = Place(TODAY, UUID(int=1), UUID(int=2), "größer" + 190 * "\U0001f600")
    assert read(f"cursor={cursor(place)}&limit=7").totals.after == place
    others = "user_id=1&agent_id=2&from=2026-01-01&to=2026-01-02&group_by=day,user"
    page = f"{others.replace('day,user', 'user,day')}&cursor={cursor(place, others)}"
    assert read(page).totals.after == place


@pytest.mark.parametrize(
    "query",
    ["group_by=day", "group_by=user,agent", "user_id=1", "agent_id=1", f"from={TODAY}", f"to={TODAY}", ""],
)
def test_cursor_of_another_query_is_refused(query: str) -> None:
    place = Place(TODAY, UUID(int=1), UUID(int=2), "")
    with pytest.raises(ParameterError, match="cursor: "):
        read(f"{query}&cursor={cursor(place, 'group_by=user')}")


def test_query_is_utf_8_encoded_or_not() -> None:
    assert read("user_id=Zoë").user == read("user_id=Zo%C3%AB").user == "Zoë"
    with pytest.raises(ParameterError, match="user_id: is not UTF-8"):
        read_query(b"user_id=Zo\xeb", LEDGER_DAYS)
