"""Which hours are anomalies, on hours of planted agents at fixed times, judged as the task judges them."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from tests.hourly import DAY, HOUR, WEEK, Hour, write_hours
from tests.integration.database import run
from usage_worker.maintenance.anomalies import judge_span
from usage_worker.settings import Settings
from usage_worker.store.anomalies import Anomaly, Judging, Span
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# The clocks of Europe change on 29 March, the third of the judged days.
JUDGED = datetime(2026, 3, 27, tzinfo=UTC)
BEGIN, END = JUDGED - 5 * WEEK, JUDGED + 4 * DAY
PLANTED = JUDGED + 2 * DAY + 14 * HOUR
FAST, SLOW = 400, 4_000


def judge(url: str, start: datetime = JUDGED, stop: datetime = END) -> list[Anomaly]:
    """Judge a span as the task does, whatever time it is, and return its anomalies."""
    with Store(url) as store, store.connection() as connection:
        span = Span(start.replace(hour=0) - 49 * DAY, start, stop)
        # These hours are long past.
        settings = Settings(hourly_retention_days=36_500)
        return judge_span(Judging(connection, span), settings)[1]


def usual(agent_id: UUID, hour: datetime, chance: random.Random) -> Hour:
    """Return an hour of about 60 uses at 2 cents, one of which fails; a tenth less at night."""
    level = 60 if 6 <= hour.hour < 20 else 54
    uses = max(round(chance.gauss(level, level**0.5)), 1)
    times = ((FAST, uses - uses // 30), (2 * FAST, uses // 30))
    return Hour(agent_id, hour, uses, uses * 0.02, 1, times)


def hours_of(agent_id: UUID, change: Callable[[Hour], Hour | None], begin: datetime = BEGIN) -> Iterator[Hour]:
    """Yield the usual hours of an agent until the end, as `change` makes them; None leaves an hour out."""
    chance = random.Random(agent_id.int)
    for number in range((END - begin) // HOUR):
        if changed := change(usual(agent_id, begin + number * HOUR, chance)):
            yield changed


def planted(hour: Hour, hours: int = 3) -> bool:
    return PLANTED <= hour.hour < PLANTED + hours * HOUR


def scaled(hour: Hour, factor: float) -> Hour:
    uses = round(hour.uses * factor)
    return replace(hour, uses=uses, cost_usd=uses * 0.02, times_ms=((FAST, uses),)) if uses else replace(hour, uses=0)


def few(hour: Hour) -> Hour | None:
    """Leave one use of about three hours."""
    return replace(hour, uses=1, cost_usd=0.02, errors=0, times_ms=((FAST, 1),)) if hour.uses % 3 == 0 else None


AGENTS: dict[str, tuple[set[str], Callable[[Hour], Hour | None]]] = {
    "steady": (set(), lambda hour: hour),
    "expensive": ({"cost"}, lambda hour: scaled(hour, 10) if planted(hour) else hour),
    "dearer, not more uses": (
        {"cost"},
        lambda hour: replace(hour, cost_usd=hour.uses * 0.2) if planted(hour) else hour,
    ),
    "a little more": (set(), lambda hour: scaled(hour, 1.3) if planted(hour) else hour),
    "below the least amount": (
        set(),
        lambda hour: replace(hour, cost_usd=hour.uses * (0.01 if planted(hour) else 0.001)),
    ),
    "free of charge": (set(), lambda hour: replace(hour, cost_usd=0.0)),
    "cost unknown": (set(), lambda hour: replace(hour, cost_usd=None, uses=hour.uses * (9 if planted(hour) else 1))),
    "failing": ({"errors"}, lambda hour: replace(hour, errors=hour.uses // 2) if planted(hour) else hour),
    "always failing": (set(), lambda hour: replace(hour, errors=hour.uses // 5)),
    "few errors": (set(), lambda hour: replace(hour, errors=4 if planted(hour) else 0)),
    "slow": (
        {"latency"},
        lambda hour: (
            replace(hour, times_ms=((FAST, hour.uses // 2), (SLOW, hour.uses // 2))) if planted(hour) else hour
        ),
    ),
    "three slow responses": (
        set(),
        lambda hour: replace(hour, times_ms=((FAST, hour.uses - 3), (SLOW, 3))) if planted(hour) else hour,
    ),
    "slow at few times": (set(), lambda hour: replace(hour, times_ms=((SLOW if planted(hour) else FAST, 19),))),
    "silent": ({"silence"}, lambda hour: None if planted(hour) else hour),
    "few uses": (set(), few),
    "few uses, then none": (set(), lambda hour: few(hour) if hour.hour < JUDGED else None),
    "by day only": (set(), lambda hour: hour if 6 <= hour.hour.hour < 20 else None),
    "once a week": (
        set(),
        lambda hour: scaled(hour, 20) if (hour.hour.weekday(), hour.hour.hour) == (6, 3) else None,
    ),
    "gone for two days of a week": (
        set(),
        lambda hour: None if JUDGED - 2 * WEEK <= hour.hour < JUDGED - 2 * WEEK + 2 * DAY else hour,
    ),
    "growing by a tenth a week": (set(), lambda hour: scaled(hour, 1.1 ** ((hour.hour - BEGIN) / WEEK))),
    "of two models": ({"cost"}, lambda hour: scaled(hour, 10) if planted(hour) else hour),
}
IDS = {name: UUID(int=number) for number, name in enumerate(AGENTS, 1)}
NEW = UUID(int=1_000)
# Half a day short of four weeks when the spike comes.
NEW_SINCE = PLANTED - 27 * DAY - 12 * HOUR


def all_hours() -> Iterator[Hour]:
    for name, (_, change) in AGENTS.items():
        for hour in hours_of(IDS[name], change):
            if name == "of two models":
                half = replace(hour, uses=hour.uses // 2, cost_usd=(hour.cost_usd or 0) / 2, errors=0, times_ms=())
                yield replace(half, model="a")
                yield replace(half, model="b")
            elif hour.uses:
                yield hour
    yield from hours_of(NEW, lambda hour: scaled(hour, 10) if planted(hour) else hour, NEW_SINCE)


def kinds(found: Iterable[Anomaly]) -> dict[UUID | None, set[str]]:
    by_agent = defaultdict(set)
    for anomaly in found:
        by_agent[anomaly.agent_id].add(anomaly.kind)
    return dict(by_agent)


def test_planted_anomalies_are_found_and_nothing_else(database: str) -> None:
    write_hours(database, all_hours(), BEGIN, END)
    found = judge(database)
    expected = {IDS[name]: wanted for name, (wanted, _) in AGENTS.items() if wanted}
    assert {agent: it for agent, it in kinds(found).items() if agent} == expected
    for it in found:
        if it.agent_id:
            assert (it.started_at, it.ended_at) == (PLANTED, PLANTED + 3 * HOUR), it
    cost = next(it for it in found if it.agent_id == IDS["expensive"])
    assert 0.9 < cost.expected < 1.6
    assert cost.observed > 8 * cost.expected
    assert cost.samples == 12
    slow = next(it for it in found if it.kind == "latency")
    assert (slow.observed, slow.expected) == pytest.approx((SLOW, FAST), rel=0.02)
    silence = next(it for it in found if it.agent_id == IDS["silent"])
    assert silence.observed == 0
    assert 150 < silence.expected < 210

    run(database, f"ALTER DATABASE {database.rpartition('/')[2].partition('?')[0]} SET timezone TO 'Europe/Berlin'")
    assert judge(database) == found, "the result depends on the session's time zone"
    rows = run(database, "SELECT xmin, * FROM agent_anomalies ORDER BY id")
    assert len(rows) == len(found)
    judge(database)
    assert run(database, "SELECT xmin, * FROM agent_anomalies ORDER BY id") == rows, (
        "a second run has changed something"
    )


def test_new_agent_is_judged_after_four_weeks(database: str) -> None:
    later = PLANTED + DAY

    def change(hour: Hour) -> Hour:
        return scaled(hour, 10) if planted(hour) or later <= hour.hour < later + 3 * HOUR else hour

    write_hours(database, hours_of(NEW, change, NEW_SINCE), BEGIN, END)
    assert {it.started_at for it in judge(database)} == {later}


def test_outage_of_everything_is_one_anomaly_and_recovery_none(database: str) -> None:
    agents = [uuid4() for _ in range(10)]
    outage = JUDGED - WEEK
    hours = (
        hour
        for agent in agents
        for hour in hours_of(agent, lambda hour: None if outage <= hour.hour < JUDGED else hour)
    )
    write_hours(database, hours, BEGIN, END)
    (silence,) = judge(database, outage, JUDGED)
    assert (silence.agent_id, silence.kind, silence.started_at, silence.ended_at) == (None, "silence", outage, None)
    assert judge(database, JUDGED, END) == [replace(silence, ended_at=JUDGED)]


def test_one_row_goes_on_over_runs_until_it_ends(database: str) -> None:
    """The runs begin later and later, within the anomaly at last, and see its beginning no more."""
    agent, length = uuid4(), 30
    hours = hours_of(agent, lambda hour: scaled(hour, 10) if planted(hour, length) else hour)
    write_hours(database, hours, BEGIN, END)
    rows = "SELECT started_at, ended_at FROM agent_anomalies WHERE agent_id IS NOT NULL"
    for passed in (2, 20, 26, 29):
        stop = PLANTED + passed * HOUR
        judge(database, stop - DAY, stop)
        assert run(database, rows) == [(PLANTED, None)], passed
    end = PLANTED + length * HOUR
    judge(database, end + HOUR - DAY, end + HOUR)
    assert run(database, rows) == [(PLANTED, end)]


def test_long_silence_is_one_row(database: str) -> None:
    agent, other = uuid4(), uuid4()
    hours = [
        *hours_of(agent, lambda hour: None if hour.hour >= PLANTED - 3 * DAY else hour),
        *hours_of(other, lambda it: it),
    ]
    write_hours(database, hours, BEGIN, END)
    rows = "SELECT started_at, ended_at FROM agent_anomalies WHERE agent_id IS NOT NULL"
    for stop in (PLANTED - 2 * DAY, PLANTED, PLANTED + DAY):
        judge(database, stop - DAY, stop)
        assert run(database, rows) == [(PLANTED - 3 * DAY, None)], stop


def test_silence_is_over_where_no_use_is_expected_any_more(database: str) -> None:
    """Of an agent silent for three weeks, each hour expects less than half a use, but all of them still many."""
    agent, other = uuid4(), uuid4()
    since, stop = JUDGED, JUDGED + 22 * DAY + 2 * HOUR
    begin = since - 5 * WEEK
    spike = stop - 2 * HOUR
    hours = [begin + number * HOUR for number in range((stop - begin) // HOUR)]
    rows = [
        *(Hour(agent, hour, 1, 0.02) for hour in hours if hour < since and 8 <= hour.hour < 18),
        *(Hour(other, hour, 60, 12 if hour == spike else 1.2) for hour in hours),
    ]
    write_hours(database, rows, begin, stop)
    assert kinds(it for it in judge(database, stop - DAY, stop) if it.agent_id) == {other: {"cost"}}


def test_silence_goes_on_at_midnight_with_a_greater_scale(database: str) -> None:
    """The uses of the last days are 2 and 6 in turn, of which a day more makes the scale greater."""
    agent, other, begin = uuid4(), uuid4(), JUDGED - 9 * WEEK
    since = JUDGED - 4 * HOUR
    hours = [begin + number * HOUR for number in range((JUDGED + 6 * HOUR - begin) // HOUR)]
    lively = [hour for hour in hours if hour < since]
    uses = [4 if hour < JUDGED - 11 * DAY else (2, 6)[number % 2] for number, hour in enumerate(lively)]
    rows = [
        *(Hour(other, hour, 20, 0.2) for hour in hours),
        *(Hour(agent, hour, number, 0.04) for hour, number in zip(lively, uses, strict=True)),
    ]
    write_hours(database, rows, begin, JUDGED + 6 * HOUR)
    for passed in range(-1, 6):
        stop = JUDGED + passed * HOUR
        judge(database, stop - DAY, stop)
        found = run(database, "SELECT started_at, ended_at FROM agent_anomalies WHERE kind = 'silence'")
        assert found == ([(since, None)] if passed >= 0 or found else []), passed
    # After a stop of more than a day, all of it at once.
    run(database, "DELETE FROM agent_anomalies")
    (silence,) = (it for it in judge(database, JUDGED - 2 * DAY, JUDGED + 5 * HOUR) if it.kind == "silence")
    assert (silence.started_at, silence.ended_at) == (since, None)


def test_late_events_withdraw_an_anomaly(database: str) -> None:
    agent = uuid4()
    write_hours(database, hours_of(agent, lambda hour: None if planted(hour) else hour), BEGIN, END)
    assert kinds(judge(database)) == {None: {"silence"}}
    late = [usual(agent, PLANTED + number * HOUR, random.Random(1)) for number in range(3)]
    write_hours(database, late, BEGIN, END)
    assert judge(database) == []
    assert run(database, "SELECT count(*) FROM agent_anomalies") == [(0,)]


def test_alerts_are_of_the_total_and_of_the_agents_that_cost_most(database: str) -> None:
    agents = [UUID(int=number) for number in range(1, 23)]
    hours = (
        replace(hour, cost_usd=hour.uses * 0.02 * agent.int)
        for agent in agents
        for hour in hours_of(agent, lambda hour: scaled(hour, 10) if planted(hour) else hour)
    )
    write_hours(database, hours, BEGIN, END)
    alerts = {it.agent_id: it.is_alert for it in judge(database, PLANTED - DAY, PLANTED + 4 * HOUR)}
    assert alerts == {None: True} | {agent: agent.int > 2 for agent in agents}
