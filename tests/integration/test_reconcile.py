"""Reconcile on a real database: every difference is named with both figures, and repaired during ingest."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import run, with_option
from tests.integration.ledger import create_days, date_of, name
from tests.integration.retired import expected_uses, repeated_calls, soft_delete, track, uses
from tests.integration.test_migrate_ledger import seed as seed_3_0_0
from usage_worker.errors import SettingsError
from usage_worker.maintenance.intake_differences import intake_differences
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import RECONCILE, Scope, reconcile, run_reconcile
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.counters import COLUMNS
from usage_worker.store.forget import erase_day
from usage_worker.store.reconcile import (
    FIRST_PAIR,
    RecordedEvents,
    counter_differences,
    day_differences,
    recorded_by_day,
)
from usage_worker.store.task_runs import last_runs, record_run
from usage_worker.testing import Population, generate_usage
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from usage_worker.maintenance.differences import Difference, ReconcileReport
    from usage_worker.service.resources import Resources

# Days are distances from today, as in `tests.integration.ledger`.
TODAY, YESTERDAY, EARLIER = 0, -1, -2
# Uses of one pair yesterday and today; each of ten tokens, $0.25 and 200 ms, in one conversation a day.
USES = 4, 3


class Damage(NamedTuple):
    """A change of a pair's figures, and the differences that reconcile then names: day, column, expected, found."""

    statement: str
    named: set[tuple[int | None, str, int, int]]


DAMAGE = {
    "counters": Damage(
        "UPDATE user_agents SET usage_count = 5, total_tokens_used = 0 WHERE {pair}",
        {(None, "usage_count", 7, 5), (None, "total_tokens_used", 70, 0)},
    ),
    "average": Damage(
        "UPDATE user_agents SET avg_response_time_ms = 1 WHERE {pair}", {(None, "avg_response_time_ms", 200, 1)}
    ),
    "conversations": Damage(
        "UPDATE user_agents SET conversation_count = 1 WHERE {pair}", {(None, "conversation_count", 2, 1)}
    ),
    "conversations of the days": Damage(
        "UPDATE usage_daily SET conversation_count = 3 WHERE {pair} AND day = '{yesterday}'",
        {(None, "usage_daily.conversation_count", 2, 4)},
    ),
    "a day": Damage(
        "UPDATE usage_daily SET error_count = 2, response_time_total_ms = 1300 WHERE {pair} AND day = '{today}'",
        {
            *((TODAY, "error_count", 0, 2), (TODAY, "response_time_total_ms", 600, 1300)),
            *((None, "error_count", 2, 0), (None, "response_time_total_ms", 2100, 1400)),
            (None, "avg_response_time_ms", 300, 200),
        },
    ),
    "parts of the tokens": Damage(
        "UPDATE usage_daily SET cached_input_tokens = 9, cache_write_tokens = 400 WHERE {pair} AND day = '{today}';"
        " UPDATE usage_events SET cached_input_tokens = 3, reasoning_tokens = 2"
        " WHERE {pair} AND event_id IN (SELECT event_id FROM {partition} LIMIT 2)",
        {
            *((TODAY, "cached_input_tokens", 6, 9), (TODAY, "cache_write_tokens", 0, 400)),
            (TODAY, "reasoning_tokens", 4, 0),
        },
    ),
    "a missing day": Damage(
        "DELETE FROM usage_daily WHERE {pair} AND day = '{yesterday}'",
        {
            *((YESTERDAY, "usage_count", 4, 0), (YESTERDAY, "input_tokens", 40, 0), (None, "usage_count", 3, 7)),
            (None, "usage_daily.conversation_count", 2, 1),
        },
    ),
    "a day too many": Damage(
        "INSERT INTO usage_daily (user_id, agent_id, day, usage_count) SELECT user_id, agent_id, '{earlier}', 6"
        " FROM user_agents WHERE {pair}",
        {(EARLIER, "usage_count", 0, 6), (None, "usage_count", 13, 7)},
    ),
    "a day of nobody": Damage(
        "INSERT INTO usage_daily (user_id, agent_id, day, usage_count)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), '{today}', 6)",
        {(TODAY, "usage_count", 0, 6), (None, "usage_count", 6, 0)},
    ),
    "an ended life too many": Damage(
        "INSERT INTO usage_retired_daily (user_id, agent_id, day, usage_count) SELECT user_id, agent_id, '{today}', 5"
        " FROM user_agents WHERE {pair}",
        {(TODAY, "usage_count", 3, 8)},
    ),
    "a lost row": Damage(
        "SET session_replication_role = replica; DELETE FROM user_agents WHERE {pair}",
        {(None, "usage_count", 7, 0), (None, "conversation_count", 2, 0)},
    ),
    "a lost row and its days": Damage(
        "SET session_replication_role = replica; DELETE FROM user_agents WHERE {pair};"
        " DELETE FROM usage_daily WHERE {pair}",
        {(TODAY, "usage_count", 3, 0), (YESTERDAY, "usage_count", 4, 0), (None, "conversation_count", 2, 0)},
    ),
}


def use(harness: IngestHarness, ahead: int, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return uses of one pair in one conversation, in the first minutes of a day."""
    began, conversation = datetime.combine(date_of(ahead), time(), UTC), uuid4()
    pair = {"user_id": harness.users[3], "agent_id": harness.agents[2], "conversation_id": conversation}
    figures = {"input_tokens": 10, "cost_usd": "0.25", "response_time_ms": 200}
    return [
        pair | figures | {"event_id": uuid4(), "occurred_at": began + timedelta(milliseconds=number)} | fields
        for number in range(count)
    ]


def traffic(harness: IngestHarness, count: int, seed: int) -> list[dict[str, Any]]:
    now, chosen = datetime.now(UTC), random.Random(seed)
    events = []
    for fields in generate_usage(Population(harness.users, harness.agents), count, "uniform", seed):
        when = now - timedelta(seconds=chosen.randrange(2 * 86_400))
        rating = {"type": "rating", "rating": 4} if chosen.random() < 0.02 else None
        ids = {"event_id": uuid4(), "occurred_at": when, "user_id": fields["user_id"], "agent_id": fields["agent_id"]}
        events.append(ids | (rating or fields))
    return events


def check(harness: IngestHarness, *days: int, repair: bool = False) -> ReconcileReport:
    scope = Scope(*map(date_of, days))
    return reconcile(harness.resources.store, harness.resources.settings, scope, repair=repair)


def count_one_pair(harness: IngestHarness) -> None:
    harness.publish(*use(harness, YESTERDAY, USES[0]), *use(harness, TODAY, USES[1]))
    harness.flush()


def damage(harness: IngestHarness, statement: str) -> None:
    parameters: dict[str, object] = {"today": date_of(), "yesterday": date_of(YESTERDAY), "earlier": date_of(EARLIER)}
    parameters["pair"] = f"(user_id, agent_id) = ('{harness.users[3]}', '{harness.agents[2]}')"
    parameters["partition"] = name(date_of())
    run(harness.resources.settings.database_url, statement.format(**parameters))


def named(report: ReconcileReport) -> set[tuple[Any, ...]]:
    return {(distance(it), it.column, it.expected, it.found) for it in report.differences}


def distance(difference: Difference) -> int | None:
    return None if difference.day is None else (date.fromisoformat(difference.day) - date_of()).days


def check_live_and_retired(
    harness: IngestHarness, events: Iterable[dict[str, Any]], tracked: Iterable[tuple[Any, Any]] = ()
) -> None:
    """Assert that nothing differs, and that every use is in a live or retired row."""
    assert check(harness).differences == []
    expected = expected_uses(events)
    expected.update(tracked)
    assert {pair: count for pair, count in uses(harness.resources.settings.database_url).items() if count} == expected


def test_counted_events_show_no_difference(harness: IngestHarness) -> None:
    harness.publish(*traffic(harness, 3_000, 1))
    harness.flush()
    track(harness.resources.settings.database_url, harness.users[0], harness.agents[0])
    report = check(harness)
    assert (report.differences, report.left, report.complete) == ([], 0, True)
    assert report.checked == len(harness.resources.store.rows(testing_query("counters")))
    assert report.days >= 2


@pytest.mark.parametrize("kind", DAMAGE)
def test_difference_is_named_with_both_values_and_repaired(harness: IngestHarness, kind: str) -> None:
    damage(harness, "SELECT public.usage_events_ensure_day('{earlier}')")
    count_one_pair(harness)
    assert check(harness).differences == []
    damage(harness, DAMAGE[kind].statement)
    report = check(harness)
    assert named(report) >= DAMAGE[kind].named
    assert report.left == len(report.differences)
    repaired = check(harness, repair=True)
    assert repaired.differences
    assert repaired.left == 0
    assert check(harness).differences == []
    harness.check()
    counters = "SELECT sum(usage_count)::int, sum(total_cost_usd), max(avg_response_time_ms) FROM public.user_agents"
    found = run(harness.resources.settings.database_url, counters)
    assert found == [(sum(USES), sum(USES) * Decimal("0.25"), 200)]


def test_live_and_retired_rows_are_compared_separately(harness: IngestHarness) -> None:
    url = harness.resources.settings.database_url
    events = traffic(harness, 1_000, 3)
    harness.publish(*events)
    harness.flush()
    soft_delete(url, harness.users[0], harness.agents[0])
    soft_delete(url, harness.users[1], harness.agents[1])
    assert purge(harness.resources.store, timedelta(days=30)).purged == 2
    run(url, "DELETE FROM auth.users WHERE id = %s", harness.users[2])
    run(url, "DELETE FROM public.agents WHERE id = %s", harness.agents[2])
    check_live_and_retired(harness, events)
    more = [event for event in traffic(harness, 500, 4) if event["user_id"] == harness.users[0]]
    more = [event for event in more if event["agent_id"] != harness.agents[2]]
    harness.publish(*more)
    harness.flush()
    check_live_and_retired(harness, [*events, *more])


@pytest.mark.parametrize("lost", ["usage_retired_daily", "usage_daily"])
def test_missing_totals_are_restored_in_live_or_retired_row(harness: IngestHarness, lost: str) -> None:
    """Either the retired or the live totals are wrong; the counters of the live row show which."""
    url, pair = harness.resources.settings.database_url, (harness.users[3], harness.agents[2])
    count_one_pair(harness)
    soft_delete(url, *pair)
    purge(harness.resources.store, timedelta(days=30))
    track(url, *pair)
    track(url, *pair)
    run(url, f"UPDATE public.{lost} SET usage_count = usage_count - 1, total_tokens_used = 0 WHERE day = %s", date_of())
    assert check(harness, repair=True).left == 0
    assert check(harness).differences == []
    assert run(url, "SELECT usage_count, total_tokens_used FROM public.user_agents") == [(2, 14)]
    past = "SELECT usage_count, total_tokens_used FROM public.usage_retired_daily ORDER BY day"
    assert run(url, past) == [(4, 40), (3, 30)]


def test_totals_without_pair_become_retired_rows(harness: IngestHarness) -> None:
    url = harness.resources.settings.database_url
    count_one_pair(harness)
    damage(
        harness,
        "SET session_replication_role = replica; DELETE FROM auth.users WHERE id = (SELECT user_id FROM"
        " public.user_agents WHERE {pair}); DELETE FROM user_agents WHERE {pair};"
        " DELETE FROM usage_daily WHERE day = '{today}'",
    )
    assert check(harness, repair=True).left == 0
    assert check(harness).differences == []
    assert run(url, "SELECT count(*) FROM public.user_agents") == [(0,)]
    past = "SELECT day, usage_count FROM public.usage_retired_daily ORDER BY day"
    assert run(url, past) == [(date_of(YESTERDAY), USES[0]), (date_of(), USES[1])]


def test_only_requested_days_are_compared(harness: IngestHarness) -> None:
    count_one_pair(harness)
    damage(harness, "UPDATE usage_daily SET input_tokens = 1")
    assert {distance(it) for it in check(harness).differences} == {YESTERDAY, TODAY}
    assert {distance(it) for it in check(harness, TODAY, TODAY).differences} == {TODAY}


def test_difference_that_each_run_finds_is_counted_once(harness: IngestHarness) -> None:
    count_one_pair(harness)
    damage(harness, "UPDATE user_agents SET usage_count = usage_count + 1")
    store, settings = harness.resources.store, harness.resources.settings
    for scope in (Scope(), *[Scope(date(2020, 1, 1), date(2020, 1, 2))] * 3):
        report = reconcile(store, settings, scope)
        record_run(store, RECONCILE, 1.0, report.as_dict())
        assert report.left + report.left_elsewhere == 1


def test_erasure_between_the_reads_is_no_difference(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store, url = harness.resources.store, harness.resources.settings.database_url
    count_one_pair(harness)
    run(url, "UPDATE public.usage_intake SET day = day - 3")
    run(url, "UPDATE public.usage_events SET recorded_at = recorded_at - interval '3 days'")
    erased: list[int] = []

    def recorded(_: Store, day: date) -> list[RecordedEvents]:
        found = recorded_by_day(store, day)
        if found and not erased:
            erased.append(erase_day(store, f"usage_events_{day:%Y%m%d}", harness.users[3]))
        return found

    monkeypatch.setattr("usage_worker.maintenance.intake_differences.recorded_by_day", recorded)
    create_days(url, *range(-39, -1))
    assert intake_differences(store, [date_of(ahead) for ahead in range(-39, 1)], 30) == []
    assert erased[0] > 0


def test_intake_totals_equal_ledger(harness: IngestHarness) -> None:
    """Only days that are over, and whose events are all in the ledger, are compared."""
    url = harness.resources.settings.database_url
    count_one_pair(harness)
    track(url, harness.users[0], harness.agents[0])
    create_days(url, -40)
    run(url, "UPDATE public.usage_intake SET day = day - 3")
    run(url, "UPDATE public.usage_events SET recorded_at = recorded_at - interval '3 days' WHERE input_tokens > 0")
    run(url, "UPDATE public.usage_intake SET applied = applied - 1, accepted = accepted - 1")
    # A backfill may have opened the day 40 days ago; nobody knows what the days since then have had.
    assert check(harness).differences == []
    run(url, "UPDATE public.usage_intake SET applied = applied + 1, accepted = accepted + 1")
    create_days(url, *range(-39, -1))
    assert check(harness).differences == []
    run(
        url,
        "UPDATE public.usage_intake SET applied = applied + 2, accepted = accepted + 2 WHERE stream LIKE %s",
        "%{0}",
    )
    run(
        url,
        "UPDATE public.usage_intake SET applied = applied + 2, accepted = accepted + 2 WHERE stream LIKE %s",
        "%{1}",
    )
    (difference,) = check(harness).differences
    rows = run(url, "SELECT count(*) FROM public.usage_intake")[0][0]
    assert difference == (None, None, date_of(-3).isoformat(), "applied", sum(USES), sum(USES) + 2 * rows, False)


def test_event_may_name_the_moment_in_which_it_is_recorded(harness: IngestHarness) -> None:
    """Of a publisher whose clock is ahead; a call of track_agent_usage, which the intake lacks, looks the same."""
    url, days = harness.resources.settings.database_url, [date_of(ahead) for ahead in range(-40, 1)]
    count_one_pair(harness)
    track(url, harness.users[0], harness.agents[0])
    create_days(url, *range(-40, -1))
    run(url, "UPDATE public.usage_events SET recorded_at = recorded_at - interval '3 days'")
    same = "(SELECT DISTINCT ON (input_tokens) event_id FROM public.usage_events ORDER BY input_tokens)"
    run(url, f"UPDATE public.usage_events SET occurred_at = recorded_at WHERE event_id IN {same}")
    run(url, "UPDATE public.usage_intake SET day = day - 3")
    for more, expected in (0, []), (-1, []), (-1, [6]), (+3, []), (+1, [8]):
        run(
            url,
            "UPDATE public.usage_intake SET applied = applied + %s, accepted = accepted + %s"
            " WHERE stream = (SELECT min(stream) FROM public.usage_intake)",
            *[more] * 2,
        )
        found = intake_differences(harness.resources.store, days, 30)
        assert [it.expected for it in found] == expected


def test_reconcile_needs_owner(harness: IngestHarness) -> None:
    settings = harness.resources.settings
    url = settings.database_url
    run(url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO authenticated")
    under_rls = with_option(url, "role=authenticated")
    with Store(under_rls) as store, pytest.raises(SettingsError, match="names authenticated, which does not own"):
        run_reconcile(store, settings)


def test_scheduled_task_shows_no_ids_of_people(harness: IngestHarness) -> None:
    """Anybody may read what it returns, in Flower, and what it logs; the record has the pairs."""
    store, settings = harness.resources.store, harness.resources.settings
    count_one_pair(harness)
    damage(harness, DAMAGE["counters"].statement)
    found = check(harness)
    with capture_logs() as lines:
        figures = run_reconcile(store, settings)
        reconcile(store, settings, budget=0, report=found)
    assert (figures["different"], figures["left"]) == (2, 2)
    assert [it["event"] for it in lines] == ["figures differ", RECONCILE, "the time budget did not suffice"]
    assert str(harness.users[3]) not in f"{figures} {lines}"
    recorded = last_runs(store)[RECONCILE].report["differences"]
    assert [it["user_id"] for it in recorded] == 2 * [str(harness.users[3])]


def test_stops_when_time_budget_is_spent(harness: IngestHarness) -> None:
    report = reconcile(harness.resources.store, harness.resources.settings, budget=0)
    assert (report.days, report.complete) == (0, False)


def test_whatever_the_budget_leaves_out_has_its_turn_in_another_run(
    harness: IngestHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneStep:
        def __init__(self, _: float | None) -> None:
            self._left = iter((False, True))

        @property
        def is_over(self) -> bool:
            return next(self._left)

    module = import_module("usage_worker.maintenance.reconcile")
    monkeypatch.setattr(module, "Deadline", OneStep)
    monkeypatch.setattr(module, "CHUNK_PAIRS", 40)
    harness.publish(*traffic(harness, 2_000, 6))
    harness.flush()
    url = harness.resources.settings.database_url
    run(url, "UPDATE public.user_agents SET usage_count = usage_count - 1")
    yesterday = date_of(YESTERDAY)
    run(url, "UPDATE public.usage_daily SET message_count = message_count + 1 WHERE day = %s", yesterday)
    pairs = set[tuple[str | None, str | None]]()
    days = set[str]()

    def has_seen_all() -> bool:
        report = reconcile(harness.resources.store, harness.resources.settings, budget=1)
        assert not report.complete
        pairs.update((it.user_id, it.agent_id) for it in report.differences if it.column == "usage_count")
        days.update(it.day for it in report.differences if it.day)
        return (len(pairs), days) == (100, {str(yesterday)})

    eventually(has_seen_all, 60)


def test_pairs_are_compared_once_wherever_a_run_begins(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("usage_worker.maintenance.reconcile"), "CHUNK_PAIRS", 7)
    harness.publish(*traffic(harness, 2_000, 6))
    harness.flush()
    run(harness.resources.settings.database_url, "UPDATE public.user_agents SET usage_count = usage_count - 1")
    for _ in range(5):
        report = reconcile(harness.resources.store, harness.resources.settings, budget=600)
        assert (report.checked, len(report.differences), report.complete) == (100, 100, True)


def test_chunks_cover_every_pair(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.publish(*traffic(harness, 2_000, 6))
    harness.flush()
    module = import_module("usage_worker.maintenance.reconcile")
    for pairs, rows in (3, 1_000), (50, 4):
        monkeypatch.setattr(module, "CHUNK_PAIRS", pairs)
        monkeypatch.setattr(module, "CHUNK_ROWS", rows)
        run(harness.resources.settings.database_url, "UPDATE public.user_agents SET usage_count = usage_count - 1")
        assert len(check(harness).differences) == 100
        monkeypatch.setattr(module, "REPAIR_PAIRS", 7)
        report = check(harness, repair=True)
        assert (len(report.differences), report.left, report.checked) == (100, 0, 100)
    harness.check()


def test_repair_is_exact_under_full_load(harness: IngestHarness, make_resources: Callable[..., Resources]) -> None:
    """Two repairs of damaged totals run at once, during ingest, SQL calls and purges."""
    url, settings = harness.resources.settings.database_url, harness.resources.settings
    accepted = traffic(harness, 5_000, 7)
    harness.publish(*accepted, counted=False)
    harness.flush()
    tracked: list[tuple[Any, Any]] = []
    chosen = random.Random(8)
    others = make_resources(), make_resources()

    def count_shard(shard: int) -> Callable[[], object]:
        return lambda: others[shard].flusher.flush(shard, 5)

    def publish() -> None:
        more = traffic(harness, 300, len(accepted))
        harness.publish(*more, counted=False)
        accepted.extend(more)

    def track_one() -> None:
        pair = chosen.choice(harness.users), chosen.choice(harness.agents)
        track(url, *pair)
        tracked.append(pair)

    def purge_one() -> None:
        soft_delete(url, chosen.choice(harness.users[:5]), chosen.choice(harness.agents))
        with Store(url) as store:
            purge(store, timedelta(days=30))

    with Store(url) as one, Store(url) as two:
        with repeated_calls(publish, count_shard(0), count_shard(1), track_one, purge_one):
            eventually(lambda: len(tracked) > 50, 60)
            run(
                url,
                """
                UPDATE public.user_agents SET usage_count = greatest(usage_count - 3, 0), total_cost_usd = 0
                 WHERE user_id IN (SELECT user_id FROM public.user_agents ORDER BY 1 LIMIT 30);
                DELETE FROM public.usage_daily WHERE hashtext(user_id::text) % 3 = 0;
                UPDATE public.usage_daily SET error_count = error_count + 1 WHERE hashtext(agent_id::text) % 3 = 0;
                """,
            )
            reports: list[ReconcileReport] = []
            with repeated_calls(lambda: reports.append(reconcile(two, settings, repair=True))):
                reports.append(reconcile(one, settings, repair=True))
            eventually(lambda: len(accepted) > 8_000, 60)
        eventually(lambda: not harness.flush().accepted)
    assert any(report.differences for report in reports)
    check_live_and_retired(harness, accepted, tracked)
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


def test_opening_balances_match_from_first_day(empty_database: str) -> None:
    runner, settings = Runner(empty_database), Settings(DATABASE_URL=empty_database)
    figures = "SELECT id, usage_count, total_tokens_used, conversation_count, total_cost_usd FROM public.user_agents"
    runner.up("3.0.0")
    seed_3_0_0(empty_database, 20, 10)
    user_id, agent_id = run(empty_database, "SELECT user_id, agent_id FROM public.user_agents WHERE usage_count = 5")[0]
    with Store(empty_database) as store:
        for uses_now in (6, 8):
            before = run(empty_database, f"{figures} ORDER BY id")
            runner.up()
            assert run(empty_database, f"{figures} ORDER BY id") == before
            assert reconcile(store, settings).differences == []
            track(empty_database, user_id, agent_id)
            assert reconcile(store, settings).differences == []
            before = run(empty_database, f"{figures} ORDER BY id")
            runner.down("3.0.0")
            assert run(empty_database, f"{figures} ORDER BY id") == before
            track(empty_database, user_id, agent_id)
            used = "SELECT usage_count FROM public.user_agents WHERE (user_id, agent_id) = (%s, %s)"
            assert run(empty_database, used, user_id, agent_id) == [(uses_now + 1,)]
        runner.up()
        assert reconcile(store, settings).differences == []


def test_command_prints_figures(harness: IngestHarness, tmp_path: Path) -> None:
    settings = harness.resources.settings
    cli = Cli(tmp_path, DATABASE_URL=settings.database_url, REDIS_URL=settings.redis_url)
    count_one_pair(harness)
    done = cli.run("run", "reconcile")
    assert (done.returncode, done.stdout.partition(" compared: ")[2]) == (0, "0 differences, 0 left\n")
    damage(harness, "UPDATE user_agents SET usage_count = 6")
    done = cli.run("run", "reconcile", "--json")
    report = json.loads(done.stdout)
    difference: dict[str, object] = {"user_id": str(harness.users[3]), "agent_id": str(harness.agents[2]), "day": None}
    difference |= {"column": "usage_count", "expected": 7, "found": 6, "unexplained": False}
    assert (done.returncode, report["checked"], report["differences"]) == (1, 1, [difference])
    line = f"{harness.users[3]} {harness.agents[2]} usage_count: 6 instead of 7"
    assert cli.run("run", "reconcile").stdout.splitlines()[0] == line
    done = cli.run("run", "reconcile", "--repair", "--from", f"{date_of()}", "--to", f"{date_of()}", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["days"], report["different"], report["left"]) == (0, 1, 1, 0)
    assert cli.run("run", "reconcile").returncode == 0
    harness.check()


def test_every_counter_is_compared_and_repaired(harness: IngestHarness) -> None:
    """The columns come from the catalogue, so that a new counter fails here until reconcile knows it."""
    store, url = harness.resources.store, harness.resources.settings.database_url
    count_one_pair(harness)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    daily, pairs = ({name for (name,) in run(url, columns, table)} for table in ("usage_daily", "user_agents"))
    assert set(COLUMNS["daily"]) == daily - {"user_id", "agent_id", "day"}
    assert set(COLUMNS["counters"]) == daily & pairs - {"user_id", "agent_id"}
    daily_columns = daily - {"user_id", "agent_id", "day", "conversation_count"}
    damage(harness, "UPDATE usage_daily SET " + ", ".join(f"{name} = {name} - 1" for name in daily_columns))
    (row,) = day_differences(store, date_of())
    assert {name for name in row.expected if row.expected[name] != row.found[name]} == daily_columns
    pair_columns = daily & pairs - {"user_id", "agent_id"}
    damage(harness, "UPDATE user_agents SET " + ", ".join(f"{name} = greatest({name} - 9, 0)" for name in pair_columns))
    (row,) = counter_differences(store, FIRST_PAIR, None)
    assert {name for name in row.expected if row.expected[name] != row.found[name]} >= pair_columns
    assert set(row.expected) == pair_columns | {"avg_response_time_ms", "usage_daily.conversation_count"}
    assert check(harness, repair=True).left == 0
    assert check(harness).differences == []
    harness.check()
