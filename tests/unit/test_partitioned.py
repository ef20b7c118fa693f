"""Names and bounds of partitions."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from usage_worker.maintenance.partitioned_table import Partitioned

DAILY = Partitioned("usage_events", "day", 90, "ensure_day")
MONTHLY = Partitioned("history", "month", 730, "ensure_month")


def test_wanted_days() -> None:
    days = list(DAILY.wanted(date(2026, 12, 30), 3))
    assert days == [date(2026, 12, 30), date(2026, 12, 31), date(2027, 1, 1), date(2027, 1, 2)]
    assert [DAILY.name(day) for day in days[-2:]] == ["usage_events_20270101", "usage_events_20270102"]


@pytest.mark.parametrize(
    ("today", "months"),
    [
        (date(2026, 12, 24), [date(2026, 12, 1)]),
        (date(2026, 12, 25), [date(2026, 12, 1), date(2027, 1, 1)]),
        (date(2027, 1, 31), [date(2027, 1, 1), date(2027, 2, 1)]),
    ],
)
def test_wanted_months_cover_days_ahead(today: date, months: list[date]) -> None:
    assert list(MONTHLY.wanted(today, 7)) == months


def test_days_ahead_end_at_first_gap() -> None:
    today = date(2026, 11, 22)
    attached_partitions = [DAILY.name(today + timedelta(days=number)) for number in (0, 1, 2, 4)]
    assert DAILY.ahead_days(today, attached_partitions) == 2
    assert DAILY.ahead_days(today, attached_partitions[:1]) == 0
    assert DAILY.ahead_days(today, attached_partitions[1:]) == -1


def test_days_ahead_extend_to_end_of_month() -> None:
    assert MONTHLY.ahead_days(date(2026, 11, 20), ["history_202611"]) == 10
    assert MONTHLY.ahead_days(date(2026, 11, 20), ["history_202611", "history_202612"]) == 41
    assert MONTHLY.ahead_days(date(2026, 11, 20), ["history_202612"]) == -1


def test_partition_expires_when_its_end_is_past_retention() -> None:
    today = date(2026, 11, 22)
    assert DAILY.is_expired(DAILY.name(today - timedelta(days=91)), today)
    assert not DAILY.is_expired(DAILY.name(today - timedelta(days=90)), today)
    assert MONTHLY.is_expired("history_202410", today)
    assert not MONTHLY.is_expired("history_202411", today)


@pytest.mark.parametrize("name", ["usage_events_old", "usage_events_2020011", "usage_events_20200230", "usage_events"])
def test_foreign_table_never_expires(name: str) -> None:
    assert not DAILY.is_expired(name, date(2026, 11, 22))
