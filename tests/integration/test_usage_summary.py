"""`usage_summary`: every column equals the same statement over the ledger, whatever the roll-up has and lacks."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from tests.conftest import new_database
from tests.integration.database import run, traffic
from tests.integration.ledger import INSERT, create_days, date_of, days
from tests.integration.users import FORBIDDEN, session_as
from tests.sql import query
from usage_worker.maintenance.hours import roll_up_hours
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.settings import Settings
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Event

    from tests.servers import Postgres

# Of the collection: these tests need recent days, not those of the moment.
TODAY = datetime.now(UTC).date()
# Days of 23 and 25 hours in Berlin, of 24.5 and 23.5 on Lord Howe Island; the turn of a year.
TURNS = [date(2026, 3, 29), date(2025, 10, 26), date(2026, 4, 5), date(2025, 10, 5), date(2026, 1, 1)]
DAYS = sorted({turn + timedelta(days=ahead) for turn in [*TURNS, TODAY] for ahead in (-1, 0, 1)})
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"]
UNITS = ["hour", "day", "week", "month"]
OTHERS = ["agent", "user", "model", "provider"]
AGENT, USER = UUID(int=3), UUID(int=1003)
SUMMARY = "SELECT * FROM public.usage_summary(%s, %s, %s, %s, %s, %s)"
LATENCIES = ("p50_ms", "p95_ms", "p99_ms")


class Question(NamedTuple):
    """The arguments of the function."""

    since: datetime
    until: datetime
    zone: str = "UTC"
    groups: Sequence[str] = ("day",)
    agent: UUID | None = None
    user: UUID | None = None


@pytest.fixture(scope="module")
def filled(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[str]:
    """Yield a database in which pairs are deleted, and whose roll-up lacks events of some hours, which are marked."""
    with new_database(postgres, template_database()) as name:
        url = postgres.url(name)
        add_events(url, 1, 3_000)
        with Store(url) as store:
            assert roll_up_hours(store).hours > 100
        add_events(url, 3_001, 3_300)
        with psycopg.connect(url) as connection:
            connection.execute(query("fill_daily"))
            connection.execute(query("retire_some_pairs"))
        assert run(url, "SELECT count(DISTINCT hour) FROM agent_usage_hour_marks")[0][0] > 100
        yield url


def add_events(url: str, first: int, last: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(query("ledger_days"), {"days": DAYS})
        connection.execute(query("summary_events"), {"days": DAYS, "first": first, "last": last})
        connection.execute(query("mark_new_hours"))


def asked(connection: psycopg.Connection[dict[str, Any]], question: Question) -> list[dict[str, Any]]:
    return connection.execute(SUMMARY.encode(), [*question[:3], list(question.groups), *question[4:]]).fetchall()


def expected(connection: psycopg.Connection[dict[str, Any]], question: Question) -> list[dict[str, Any]]:
    parameters = question._asdict() | {f"by_{name}": name in question.groups for name in OTHERS}
    parameters["unit"] = next((name for name in UNITS if name in question.groups), None)
    return connection.execute(query("ledger_summary"), parameters).fetchall()


def check(url: str, question: Question) -> int:
    """Compare both in one snapshot; return the number of rows."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows, ledger = asked(connection, question), expected(connection, question)
    for row, exact in zip(rows, ledger, strict=True):
        for name in LATENCIES:
            found, wanted = row.pop(name), exact.pop(name)
            assert (found is None) == (wanted is None), (name, row)
            assert found is None or abs(found - wanted) <= 0.0201 * wanted, (name, found, wanted)
    assert rows == ledger
    return len(rows)


moments = st.builds(
    lambda day, ahead, part: datetime.combine(day, time(), UTC) + timedelta(hours=ahead) + part,
    st.sampled_from(DAYS),
    st.integers(0, 24),
    st.sampled_from([timedelta(0), timedelta(minutes=15), timedelta(minutes=30)])
    | st.timedeltas(timedelta(0), timedelta(hours=1)),
)


@settings(max_examples=25)
@given(
    ends=st.lists(moments, min_size=2, max_size=2).map(sorted),
    zone=st.sampled_from(ZONES),
    unit=st.sampled_from([[], *([unit] for unit in UNITS)]),
    others=st.lists(st.sampled_from(OTHERS), unique=True, max_size=3),
    agent=st.sampled_from([None, None, AGENT]),
    user=st.sampled_from([None, None, USER]),
)
def test_every_column_equals_ledger(
    filled: str,
    ends: list[datetime],
    zone: str,
    unit: list[str],
    others: list[str],
    agent: UUID | None,
    user: UUID | None,
) -> None:
    check(filled, Question(ends[0], ends[1], zone, [*others, *unit], agent, user))


@pytest.mark.parametrize("zone", ZONES)
def test_days_equal_ledger_in_each_zone(filled: str, zone: str) -> None:
    whole = datetime.combine(DAYS[0], time(), UTC), datetime.combine(DAYS[-1], time(), UTC)
    assert check(filled, Question(*whole, zone)) > len(TURNS)
    assert check(filled, Question(*whole, zone, ["hour", "agent"])) > 1_000


def test_refresh_changes_no_answer(filled: str) -> None:
    question = Question(
        datetime.combine(DAYS[0], time(), UTC), datetime.combine(DAYS[-1], time(), UTC), groups=["day", "model"]
    )

    def refresh(over: Event) -> None:
        with Store(filled) as store:
            while not over.is_set():
                run(
                    filled,
                    "INSERT INTO agent_usage_hour_marks SELECT hour FROM agent_usage_hourly WHERE random() < 1e-1",
                )
                roll_up_hours(store)

    with traffic(refresh):
        for _ in range(8):
            check(filled, question)


def test_ledger_is_read_only_where_hours_are_marked(database: str) -> None:
    add_events(database, 1, 200)
    with psycopg.connect(database) as connection:
        connection.execute(query("fill_daily"))
    with Store(database) as store:
        roll_up_hours(store)
    with psycopg.connect(database) as connection:
        question = datetime.combine(DAYS[0], time(), UTC), datetime.combine(DAYS[-1], time(), UTC), "UTC"
        for _ in range(7):  # more often than PL/pgSQL plans for the parameters of each call
            assert connection.execute(SUMMARY.encode(), [*question, ["day"], None, None]).fetchall()
        assert connection.execute(query("scanned_days")).fetchall() == []
        marked = datetime.combine(DAYS[1], time(5), UTC)
        connection.execute("INSERT INTO public.agent_usage_hour_marks VALUES (%s)", [marked])
        connection.execute(SUMMARY.encode(), [*question, ["day"], None, None])
        assert connection.execute(query("scanned_days")).fetchall() == [(f"usage_events_{DAYS[1]:%Y%m%d}",)]


OLD = TODAY - timedelta(days=500)


@pytest.fixture
def dropped(database: str) -> str:
    """Return a database with two days that the ledger has dropped, and one before, of which only pairs are known."""
    with psycopg.connect(database) as connection:
        connection.execute(query("dropped_days"), {"day": OLD})
        connection.execute(query("dropped_days_of_pairs"), {"day": OLD})
    return database


def days_from(first: date, count: int, *more: Any) -> list[Any]:
    begin = datetime.combine(first, time(), UTC)
    return [begin, begin + timedelta(days=count), *more]


def summary(
    url: str, *arguments: Any, columns: str = "usage_count, users, cost_samples, p50_ms IS NULL"
) -> list[tuple[Any, ...]]:
    marks = ", ".join(["%s"] * len(arguments))
    return run(url, f"SELECT {columns} FROM usage_summary({marks})", *arguments)


def test_days_that_ledger_dropped_are_known_as_wholes(dropped: str) -> None:
    # The users of the second day are unknown: a pair was deleted since.
    assert summary(dropped, *days_from(OLD, 2)) == [(30, 2, 25, False), (30, None, 25, False)]
    assert summary(dropped, *days_from(OLD, 2, "UTC", ["month"]), columns="sum(usage_count)") == [(60,)]
    # Of a user's uses neither the number of known costs nor the histogram is kept, nor the model.
    rows = summary(
        dropped,
        *days_from(OLD - timedelta(days=1), 3, "UTC", ["user", "model"]),
        columns="usage_count, cost_samples, p50_ms, model",
    )
    assert sorted(rows) == [(27, None, None, ""), (27, None, None, "")]


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        # The ledger would have the first hours of the third UTC day, but not those of the third day there.
        (days_from(OLD, 2, "Asia/Kolkata"), OLD + timedelta(days=3)),
        (days_from(OLD, 2, "UTC", ["hour"]), OLD + timedelta(days=2)),
        ([datetime.combine(OLD, time(5), UTC), datetime.now(UTC)], OLD + timedelta(days=1)),
        (days_from(OLD, 2, "Asia/Kathmandu", ["day", "user"]), OLD + timedelta(days=3)),
    ],
    ids=["zone", "hour", "part of a day", "zone of a user's days"],
)
def test_parts_of_dropped_days_are_refused(dropped: str, arguments: list[Any], first: date) -> None:
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=f"first possible day in this time zone and grouping is {first}"
    ):
        summary(dropped, *arguments)


@pytest.mark.parametrize("group_by", ["user", "day"])
def test_day_dropped_after_snapshot_is_no_day_without_uses(database: str, store: Store, group_by: str) -> None:
    """The planner sees the present partitions, whatever the snapshot of the transaction."""
    create_days(database, -92)
    first = datetime.combine(date_of(-92), time(), UTC)
    run(database, INSERT, first)
    run(database, "INSERT INTO agent_usage_hour_marks VALUES (%s)", first)
    question = [first, first + timedelta(days=1), "UTC", [group_by], None, None]
    with psycopg.connect(database) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT FROM agent_usage_hour_marks")
        assert run(database, SUMMARY, *question)
        assert manage_partitions(store, Settings()).dropped == days(-92)
        with pytest.raises(psycopg.errors.SerializationFailure, match="try again"):
            connection.execute(SUMMARY.encode(), question)


def test_days_before_roll_up_are_refused(dropped: str) -> None:
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=f"first possible day in this time zone and grouping is {OLD}"
    ):
        summary(dropped, datetime(1, 1, 1, tzinfo=UTC), datetime.now(UTC))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("NULL, now()", "must not be NULL"),
        ("now(), NULL", "must not be NULL"),
        ("now(), now(), NULL", "must not be NULL"),
        ("now(), now(), 'UTC', NULL", "must not be NULL"),
        ("'-infinity', now()", "must be finite"),
        ("now(), 'infinity'", "must be finite"),
        ("now(), now() - interval '1 us'", "not later than"),
        ("now(), now(), 'Europe/Atlantis'", 'time zone "Europe/Atlantis" not recognized'),
        ("now(), now(), 'UTC', '{day,week}'", "at most one of hour, day"),
        ("now(), now(), 'UTC', '{year}'", "at most one of hour, day"),
        ("now(), now(), 'UTC', '{NULL}'", "at most one of hour, day"),
    ],
)
def test_wrong_arguments_are_refused(filled: str, arguments: str, message: str) -> None:
    with pytest.raises(psycopg.DataError, match=message):
        run(filled, f"SELECT * FROM usage_summary({arguments})")


@pytest.mark.parametrize(
    "arguments",
    [
        "now(), now()",
        "now() + interval '9 days', now() + interval '99 days'",
        "'9999-12-31', '290000-01-01'",
        "'4713-01-02 BC', '0001-01-02', 'Asia/Kolkata', '{hour,user}'",
        "'0001-01-01', '2001-01-01', 'UTC', '{}'",
    ],
)
def test_ranges_without_uses_are_empty(filled: str, arguments: str) -> None:
    assert run(filled, f"SET statement_timeout = '20s'; SELECT * FROM usage_summary({arguments})") == []


def test_widest_range_is_read_in_the_end(filled: str) -> None:
    whole = run(filled, "SELECT count(*) FROM usage_events WHERE type = 'usage'")
    assert run(filled, "SELECT usage_count FROM usage_summary('0001-01-01', '9999-12-31', 'UTC', '{}')") == whole


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_only_service_role_may_call(database: str, role: str) -> None:
    call = "SELECT * FROM public.usage_summary(now() - interval '1 day', now())"
    with session_as(database, role, USER) as session, pytest.raises(FORBIDDEN, match="permission denied for function"):
        session.execute(call)
    with session_as(database, "service_role", USER) as session:
        session.execute(call)
    assert run(database, "SELECT prosecdef FROM pg_proc WHERE proname = 'usage_summary'") == [(False,)]
