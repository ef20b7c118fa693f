"""The schedule of beat, made from the settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from celery.schedules import ParseException, crontab

from usage_worker.errors import SettingsError
from usage_worker.events.event import MAX_CLOCK_DIFFERENCE
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.service.task_names import FLUSH, HEARTBEAT

if TYPE_CHECKING:
    from usage_worker.maintenance.registry import PeriodicTask
    from usage_worker.settings import Settings

HEARTBEAT_SECONDS = 10.0
# Seconds. For anything rarer there are crontabs.
LONGEST_INTERVAL = 31 * 86_400.0
OFF = "off"
# Celery compares the time at which a message expires, by the clock of the sender, with that of the worker.
CLOCKS_DIFFER_SECONDS = MAX_CLOCK_DIFFERENCE.total_seconds()
MINUTES_A_DAY = 24 * 60
CRONTAB_FIELDS = 5


class ScheduleEntry(NamedTuple):
    """One entry of the schedule.

    `when` is an interval in seconds, a crontab, or None for never. A tick expires after `expires` seconds;
    `beat_schedule` adds the minute by which clocks may differ.
    """

    name: str
    task: str
    when: float | str | None
    arguments: tuple[Any, ...] = ()
    expires: float = 0.0

    @property
    def description(self) -> str:
        """The interval or crontab, for people."""
        return f"every {self.when:g} s" if isinstance(self.when, float) else self.when or OFF

    def next_run(self, now: datetime, last: datetime | None) -> datetime | None:
        """Return the time of the next run; None if only beat knows, which counts intervals from its own start."""
        if isinstance(self.when, str):
            return next_of(self.when, now)
        if self.when is None or last is None:
            return None
        return max(later(last, timedelta(seconds=self.when)), now)


def schedule_entries(settings: Settings) -> list[ScheduleEntry]:
    """Return every entry.

    Raises:
        SettingsError: a setting is not a number of seconds, a crontab that is ever due, or "off".
    """
    interval = settings.flush_interval
    flushes = [
        ScheduleEntry(f"flush-{shard}", FLUSH, interval, (shard,), settings.trigger_expires)
        for shard in range(settings.stream_shards)
    ]
    heartbeat = ScheduleEntry("heartbeat", HEARTBEAT, HEARTBEAT_SECONDS, expires=HEARTBEAT_SECONDS)
    return [
        *flushes,
        heartbeat,
        *(_periodic_entry(settings, periodic) for periodic in PERIODIC_TASKS),
    ]


def beat_schedule(settings: Settings) -> dict[str, Any]:
    """Return the schedule in the form of Celery. A tick that no worker takes in time expires."""
    return {
        entry.name: {
            "task": entry.task,
            "schedule": crontab.from_string(entry.when) if isinstance(entry.when, str) else entry.when,
            "args": entry.arguments,
            "options": {"expires": entry.expires + CLOCKS_DIFFER_SECONDS},
        }
        for entry in schedule_entries(settings)
        if entry.when is not None
    }


def next_of(text: str, now: datetime) -> datetime:
    """Return when a crontab is due next, in the time zone of `now`.

    Raises:
        ValueError, ParseException, RuntimeError: it is not a crontab, or is never due.
    """
    schedule = crontab.from_string(text)
    # Celery would ask the app for both, which does not exist yet when the settings are checked.
    schedule.tz, schedule.nowfun = now.tzinfo, lambda: now
    return later(now, schedule.remaining_estimate(now))


def later(time: datetime, seconds: timedelta) -> datetime:
    """Add elapsed time within a time zone: Python's own addition ignores changes of the clock."""
    return (time.astimezone(UTC) + seconds).astimezone(time.tzinfo)


def _periodic_entry(settings: Settings, periodic: PeriodicTask) -> ScheduleEntry:
    name, task, variable = periodic.label, periodic.name, periodic.variable
    text = " ".join(periodic.schedule(settings).split())
    if text == OFF:
        return ScheduleEntry(name, task, None)
    if " " not in text:
        interval = _seconds(variable, text)
        return ScheduleEntry(name, task, interval, expires=interval)
    try:
        if (fields := len(text.split())) != CRONTAB_FIELDS:
            raise ValueError(f"it has {fields} fields, not {CRONTAB_FIELDS}")
        next_of(text, datetime.now(ZoneInfo(settings.timezone)))
    except (ValueError, ParseException, RuntimeError) as error:
        raise SettingsError(
            f'{variable}: is not a crontab ({str(error).rstrip(".")}); write it like "30 3 * * *"'
        ) from None
    return ScheduleEntry(name, task, text, expires=_smallest_gap(text))


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= LONGEST_INTERVAL:
        raise SettingsError(f'{variable}: must be seconds (1 to {LONGEST_INTERVAL:.0f}), a crontab or "{OFF}"')
    return seconds


def _smallest_gap(text: str) -> float:
    """Return the shortest time between two runs in seconds, as if the crontab was due every day."""
    schedule = crontab.from_string(text)
    minutes = sorted(60 * hour + minute for hour in schedule.hour for minute in schedule.minute)
    gap: int = min(later - earlier for earlier, later in pairwise([*minutes, minutes[0] + MINUTES_A_DAY]))
    return 60.0 * gap
