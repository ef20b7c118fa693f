"""The schedule of beat, as the settings determine it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from usage_worker.errors import SettingsError
from usage_worker.service.schedule import ScheduleEntry, beat_schedule, next_of, schedule_entries
from usage_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from datetime import tzinfo

BERLIN = ZoneInfo("Europe/Berlin")


def partitions(when: str) -> ScheduleEntry:
    settings = Settings(schedule_partitions=when)
    (entry,) = [entry for entry in schedule_entries(settings) if entry.name == "partitions"]
    return entry


def test_ticks_reach_workers_whose_clocks_differ_by_a_minute() -> None:
    """Celery compares the time at which a message expires, by the clock of beat, with that of the worker."""
    sent = beat_schedule(Settings(flush_interval=1, schedule_hours="1", schedule_purge="* * * * *"))
    names = ("flush-0", "flush-1", "heartbeat", "hours", "purge")
    assert {sent[name]["options"]["expires"] > 60 for name in names} == {True}


@pytest.mark.parametrize(
    ("text", "when", "description", "expires"),
    [
        ("3600", 3600.0, "every 3600 s", 3600),
        (" 1.5 ", 1.5, "every 1.5 s", 1.5),
        ("20 * * * *", "20 * * * *", "20 * * * *", 3600),
        ("*/5  3 * * mon", "*/5 3 * * mon", "*/5 3 * * mon", 300),
        ("0 1,23 * * *", "0 1,23 * * *", "0 1,23 * * *", 7200),
        ("30 3 * * *", "30 3 * * *", "30 3 * * *", 86_400),
        ("off", None, "off", 0),
    ],
)
def test_schedule_is_interval_crontab_or_off(
    text: str, when: float | str | None, description: str, expires: float
) -> None:
    entry = partitions(text)
    assert (entry.when, entry.description, entry.expires) == (when, description, expires)
    assert ("partitions" in beat_schedule(Settings(schedule_partitions=text))) == (when is not None)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "nan", "inf", "1e9", "daily", "1 2 3", "99 * * * *", "*/0 * * * *", "30 3 31 2 *", "* * * * x"],
)
def test_other_schedules_are_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^a setting is wrong: USAGE_SCHEDULE_PARTITIONS: [^\n]+$"):
        schedule_entries(Settings(schedule_partitions=text))


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc", "Europe"])
def test_unknown_time_zone_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("USAGE_TIMEZONE", name)
    with pytest.raises(SettingsError, match="USAGE_TIMEZONE"):
        load_settings()


@pytest.mark.parametrize(
    ("zone", "now", "due"),
    [
        (ZoneInfo("UTC"), "2026-11-22T03:29:59", "2026-11-22T03:30:00+00:00"),
        (ZoneInfo("UTC"), "2026-11-22T03:30:00", "2026-11-23T03:30:00+00:00"),
        (BERLIN, "2026-11-22T12:00:00", "2026-11-23T03:30:00+01:00"),
        (BERLIN, "2027-03-27T12:00:00", "2027-03-28T03:30:00+02:00"),  # DST begins in between
    ],
)
def test_next_run_follows_time_zone(zone: tzinfo, now: str, due: str) -> None:
    assert next_of("30 3 * * *", datetime.fromisoformat(now).replace(tzinfo=zone)).isoformat() == due


def test_interval_counts_from_last_known_run() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=BERLIN)
    entry = partitions("3600")
    assert entry.next_run(now, None) is None
    assert entry.next_run(now, now - timedelta(minutes=20)) == now + timedelta(minutes=40)
    assert entry.next_run(now, now - timedelta(days=1)) == now
    assert partitions("off").next_run(now, now) is None
