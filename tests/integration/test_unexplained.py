"""Counters above their daily totals and ledger: no repair lowers them; accepted ones become opening balances."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import run
from tests.integration.ledger import date_of
from tests.integration.retired import repeated_calls, soft_delete, track
from tests.integration.test_reconcile import (
    TODAY,
    YESTERDAY,
    check,
    count_one_pair,
    damage,
    distance,
    traffic,
    use,
)
from tests.integration.users import session_as
from usage_worker.errors import SettingsError
from usage_worker.maintenance.purge import purge as purge_rows
from usage_worker.maintenance.reconcile import RECONCILE, Scope, reconcile
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.connection import Store
from usage_worker.store.reconcile import retained_days
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from tests.servers import Postgres
    from usage_worker.maintenance.differences import ReconcileReport
    from usage_worker.service.resources import Resources

FIGURES = (
    "usage_count, message_count, conversation_count, success_count, error_count, total_tokens_used, total_cost_usd,"
    " response_time_total_ms, response_time_samples"
)
COUNTERS = (
    f"SELECT user_id, agent_id, {FIGURES}, avg_response_time_ms, first_used_at, last_used_at"
    " FROM public.user_agents ORDER BY user_id, agent_id"
)
OPENINGS = "SELECT usage_count FROM public.usage_daily WHERE day = '1970-01-01' ORDER BY usage_count"
IMPORT = "INSERT INTO public.user_agents (user_id, agent_id, usage_count, success_count, avg_response_time_ms)"


def url_of(harness: IngestHarness) -> str:
    return harness.resources.settings.database_url


def counters(harness: IngestHarness) -> list[tuple[Any, ...]]:
    return run(url_of(harness), COUNTERS)


def repair(harness: IngestHarness) -> ReconcileReport:
    return check(harness, repair=True)


def accept(harness: IngestHarness) -> ReconcileReport:
    return reconcile(harness.resources.store, harness.resources.settings, accept_unexplained=True)


def unexplained(report: ReconcileReport) -> set[tuple[int | None, str]]:
    return {(distance(it), it.column) for it in report.differences if it.unexplained}


def check_kept_then_accepted(harness: IngestHarness) -> None:
    """Assert that repair names and keeps unexplained totals, and that accepting them leaves the counters unchanged."""
    kept = counters(harness)
    report = repair(harness)
    assert counters(harness) == kept
    assert report.unexplained == report.left == len(report.differences) > 0
    check_accepted(harness)
    assert counters(harness) == kept


def check_accepted(harness: IngestHarness) -> None:
    report = accept(harness)
    assert (report.left, report.unexplained, report.complete) == (0, 0, True)
    assert check(harness).differences == []
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


def test_rows_restored_from_dump_keep_counters(harness: IngestHarness, postgres: Postgres, tmp_path: Path) -> None:
    url, dump = url_of(harness), tmp_path / "user_agents.sql"
    harness.publish(*traffic(harness, 500, 11))
    count_one_pair(harness)
    before = counters(harness)
    options = ("--data-only", "--table=public.user_agents", f"--file={dump}", f"--dbname={url}")
    subprocess.run([postgres.bin_dir / "pg_dump", *options], check=True, capture_output=True)
    run(url, "DELETE FROM public.user_agents")
    options = ("--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={dump}", f"--dbname={url}")
    subprocess.run([postgres.bin_dir / "psql", *options], check=True, capture_output=True)
    assert counters(harness) == before
    check_kept_then_accepted(harness)
    harness.publish(*use(harness, TODAY, 2))
    harness.flush()
    assert check(harness).differences == []
    harness.check()


def test_counters_written_by_service_are_kept(harness: IngestHarness) -> None:
    """An old application writes its own counters beside the stream, into rows of its own and into used ones."""
    count_one_pair(harness)
    with session_as(url_of(harness), "service_role") as service:
        service.execute(
            "UPDATE public.user_agents SET usage_count = 507, total_cost_usd = 99.5, conversation_count = 40"
        )
        service.execute(f"{IMPORT} VALUES (%s, %s, 40, 40, NULL)", (harness.users[0], harness.agents[0]))
    check_kept_then_accepted(harness)
    assert run(url_of(harness), OPENINGS) == [(40,), (500,)]


def test_imported_average_counts_once_per_use(harness: IngestHarness) -> None:
    """As in rows older than 4.0.0, only the average of past latencies is known."""
    with session_as(url_of(harness), "service_role") as service:
        service.execute(f"{IMPORT} VALUES (%s, %s, 3, 3, 250)", (harness.users[0], harness.agents[0]))
    assert repair(harness).left == 2
    check_accepted(harness)
    track(url_of(harness), harness.users[0], harness.agents[0])
    latency = "SELECT response_time_total_ms, response_time_samples, avg_response_time_ms FROM public.user_agents"
    assert run(url_of(harness), latency) == [(3 * 250 + 100, 4, 213)]
    assert check(harness).differences == []


def test_repair_raises_only_low_counters_of_mixed_row(harness: IngestHarness) -> None:
    count_one_pair(harness)
    damage(
        harness,
        "UPDATE user_agents SET usage_count = 9, total_tokens_used = 1, response_time_samples = 2,"
        " response_time_total_ms = 5600, avg_response_time_ms = 1, message_count = 3, conversation_count = 5",
    )
    report = repair(harness)
    high = {(None, "usage_count"), (None, "response_time_total_ms"), (None, "conversation_count")}
    assert unexplained(report) == high
    assert (report.left, report.unexplained) == (3, 3)
    figures = f"SELECT {FIGURES}, avg_response_time_ms FROM public.user_agents"
    assert run(url_of(harness), figures) == [(9, 7, 5, 7, 0, 70, Decimal("1.75"), 5600, 7, 800)]
    assert unexplained(check(harness)) == high
    check_accepted(harness)
    assert run(url_of(harness), figures) == [(9, 7, 5, 7, 0, 70, Decimal("1.75"), 5600, 7, 800)]


def test_missing_day_explains_counters(harness: IngestHarness) -> None:
    """Also in a comparison without repair."""
    count_one_pair(harness)
    damage(harness, "DELETE FROM usage_daily WHERE day = '{yesterday}'")
    assert check(harness).unexplained == 0
    damage(harness, "UPDATE user_agents SET usage_count = 8, error_count = 1")
    assert unexplained(check(harness)) == {(None, "usage_count"), (None, "error_count")}
    report = repair(harness)
    assert (unexplained(report), report.left) == ({(None, "usage_count"), (None, "error_count")}, 2)
    assert check(harness).left == 2


LOST: dict[str, tuple[str, set[tuple[int | None, str]]]] = {
    "events": ("DELETE FROM {partition}", {(TODAY, "usage_count"), (TODAY, "input_tokens"), (TODAY, "total_cost_usd")}),
    "conversations": (
        "DELETE FROM user_agent_conversations",
        {(None, "conversation_count"), (None, "usage_daily.conversation_count")},
    ),
}


@pytest.mark.parametrize("lost", LOST)
def test_totals_on_which_counters_and_days_agree_are_kept(harness: IngestHarness, lost: str) -> None:
    """A restored backup lacks the ledger or the recorded conversations; the other totals are right."""
    statement, named = LOST[lost]
    count_one_pair(harness)
    damage(harness, statement)
    assert unexplained(check(harness)) >= named
    days = "SELECT * FROM public.usage_daily ORDER BY day"
    kept = run(url_of(harness), days)
    check_kept_then_accepted(harness)
    recorded = f"SELECT sum(usage_count), sum(input_tokens), sum(conversation_count) FROM ({days}) AS days"
    assert run(url_of(harness), recorded) == [(7, 70, 2)]
    assert kept != run(url_of(harness), days)


def test_day_is_lowered_to_sum_that_counters_have(harness: IngestHarness) -> None:
    count_one_pair(harness)
    damage(
        harness,
        "UPDATE usage_daily SET usage_count = 8, input_tokens = 50 WHERE day = '{today}';"
        " UPDATE user_agents SET usage_count = 9",
    )
    report = repair(harness)
    assert unexplained(report) == {(TODAY, "usage_count")}
    assert run(url_of(harness), "SELECT usage_count, input_tokens FROM public.usage_daily ORDER BY day") == [
        (4, 40),
        (5, 30),
    ]
    check_accepted(harness)
    assert run(url_of(harness), OPENINGS) == [(2,)]


@pytest.mark.parametrize(("low_day", "high_day"), [(YESTERDAY, TODAY), (TODAY, YESTERDAY)])
def test_uses_on_wrong_day_are_moved(harness: IngestHarness, low_day: int, high_day: int) -> None:
    """The excess of one day is what the other day lacks, so it is not unexplained."""
    count_one_pair(harness)
    moved = "UPDATE public.usage_daily SET usage_count = usage_count + %s WHERE day = %s"
    run(url_of(harness), moved, -2, date_of(low_day))
    run(url_of(harness), moved, 2, date_of(high_day))
    assert accept(harness).left == 0
    assert check(harness).differences == []
    assert run(url_of(harness), OPENINGS) == []
    harness.check()


def test_retired_rows_are_lowered_before_live_rows(harness: IngestHarness) -> None:
    """The ledger has lost everything; no counter includes the totals of retired rows, so these are lowered first."""
    pair = harness.users[3], harness.agents[2]
    count_one_pair(harness)
    soft_delete(url_of(harness), *pair)
    purge_rows(harness.resources.store, timedelta(days=30))
    track(url_of(harness), *pair)
    damage(harness, "DELETE FROM usage_events")
    report = repair(harness)
    assert {it.column for it in report.differences if it.unexplained} >= {"usage_count", "total_tokens_used"}
    assert run(url_of(harness), "SELECT sum(usage_count) FROM public.usage_retired_daily") == [(0,)]
    assert run(url_of(harness), "SELECT day, usage_count FROM public.usage_daily") == [(date_of(), 1)]
    check_accepted(harness)
    assert run(url_of(harness), "SELECT usage_count FROM public.user_agents") == [(1,)]


def test_no_value_stops_repair(harness: IngestHarness) -> None:
    """NULL counts as 0, and a sum that its column cannot hold is named and left."""
    count_one_pair(harness)
    damage(
        harness,
        "UPDATE user_agents SET total_cost_usd = NULL, message_count = NULL;"
        " SELECT public.usage_events_ensure_day('{earlier}');"
        " INSERT INTO usage_daily (user_id, agent_id, day, usage_count) SELECT user_id, agent_id, '2020-01-01',"
        " 3000000000 FROM user_agents",
    )
    run(url_of(harness), f"{IMPORT} VALUES (%s, %s, 1, NULL, 0)", harness.users[0], harness.agents[0])
    report = repair(harness)
    assert {(it.column, it.unexplained) for it in report.differences if it.found == 7} == {("usage_count", False)}
    assert (report.left, report.unexplained) == (2, 1)
    found = "SELECT usage_count, message_count, total_cost_usd FROM public.user_agents ORDER BY 1"
    assert run(url_of(harness), found) == [(1, 0, 0), (7, 7, Decimal("1.75"))]
    damage(harness, "DELETE FROM usage_daily WHERE day = '2020-01-01'")
    check_accepted(harness)


def test_unexplained_differences_do_not_hide_others(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many unexplained pairs, more than one chunk locks, precede the pairs that can be repaired."""
    monkeypatch.setattr(import_module("usage_worker.maintenance.reconcile"), "REPAIR_PAIRS", 30)
    harness.publish(*traffic(harness, 1_000, 12))
    harness.flush()
    last = max(harness.users)
    run(url_of(harness), "DELETE FROM public.usage_events WHERE user_id <> %s", last)
    run(url_of(harness), "UPDATE public.user_agents SET message_count = message_count + 1 WHERE user_id <> %s", last)
    run(url_of(harness), "UPDATE public.usage_daily SET error_count = 1000 WHERE user_id = %s", last)
    run(url_of(harness), "UPDATE public.user_agents SET message_count = 0 WHERE user_id = %s", last)
    report = repair(harness)
    assert report.unexplained == report.left > 100
    assert {it.user_id for it in check(harness).differences} == {str(user) for user in harness.users} - {str(last)}
    check_accepted(harness)


def test_repeated_or_concurrent_accept_records_once(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    harness.publish(*traffic(harness, 500, 13))
    harness.flush()
    run(url_of(harness), "UPDATE public.user_agents SET usage_count = usage_count + 10")
    kept = counters(harness)
    owner = harness.resources.settings.database_url
    stores = [make_resources(DATABASE_URL=owner).store for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(lambda store: reconcile(store, harness.resources.settings, accept_unexplained=True), stores)
    assert sum(len(report.differences) for report in reports) >= len(kept)
    assert accept(harness).differences == []
    assert counters(harness) == kept
    assert set(run(url_of(harness), OPENINGS)) == {(10,)}
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


def test_opening_balance_is_retired_with_its_row(harness: IngestHarness) -> None:
    pair = harness.users[3], harness.agents[2]
    count_one_pair(harness)
    damage(harness, "UPDATE user_agents SET usage_count = 20")
    check_accepted(harness)
    soft_delete(url_of(harness), *pair)
    purge_rows(harness.resources.store, timedelta(days=30))
    assert check(harness).differences == []
    track(url_of(harness), *pair)
    assert run(url_of(harness), "SELECT usage_count FROM public.user_agents") == [(1,)]
    assert check(harness).differences == []


def test_accept_is_exact_during_ingest_and_import(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Two processes repair and accept during ingest, SQL calls, and a service that writes the counters."""
    url, settings = url_of(harness), harness.resources.settings
    accepted = traffic(harness, 2_000, 14)
    harness.publish(*accepted)
    harness.flush()
    imported, chosen = 0, random.Random(15)
    others = make_resources(), make_resources()
    reports: list[ReconcileReport] = []

    def publish() -> None:
        more = traffic(harness, 200, len(accepted))
        harness.publish(*more)
        accepted.extend(more)

    def flush() -> None:
        for shard in range(2):
            others[0].flusher.flush(shard, 5)

    def import_rows() -> None:
        nonlocal imported
        with session_as(url, "service_role") as service:
            raised = "UPDATE public.user_agents SET usage_count = usage_count + 5 WHERE (user_id, agent_id) = (%s, %s)"
            imported += service.execute(raised, (chosen.choice(harness.users), chosen.choice(harness.agents))).rowcount

    def run_repair() -> None:
        with Store(url) as store:
            reports.append(reconcile(store, settings, repair=True))

    def add_intake() -> None:
        with Store(url) as store:
            reports.append(reconcile(store, settings, accept_unexplained=True))

    with repeated_calls(publish, flush, import_rows, run_repair, add_intake):
        eventually(lambda: len(accepted) > 2_500 and len(reports) > 3, 60)
    eventually(lambda: not harness.flush().accepted)
    check_accepted(harness)
    assert any(report.unexplained for report in reports)
    (uses,) = run(url, "SELECT sum(usage_count)::int FROM public.user_agents")[0]
    assert uses == 5 * imported + sum(event.get("type") != "rating" for event in accepted)
    assert repair(harness).differences == []


def test_scheduled_reconcile_changes_nothing(harness: IngestHarness) -> None:
    count_one_pair(harness)
    damage(harness, "UPDATE user_agents SET usage_count = 9, message_count = 0")
    before = counters(harness)
    store, settings = harness.resources.store, harness.resources.settings
    figures = run_task(store, RECONCILE, lambda: reconcile(store, settings, budget=60))
    assert (figures["left"], figures["unexplained"]) == (2, 1)
    assert counters(harness) == before


def test_accept_needs_all_days(harness: IngestHarness) -> None:
    with pytest.raises(SettingsError, match="--accept-unexplained compares all days"):
        reconcile(
            harness.resources.store, harness.resources.settings, Scope(date_of(), date_of()), accept_unexplained=True
        )


def test_command_prints_figures(harness: IngestHarness, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=url_of(harness), REDIS_URL=harness.resources.settings.redis_url)
    count_one_pair(harness)
    damage(harness, "UPDATE user_agents SET usage_count = 500, message_count = 1")
    days = retained_days(harness.resources.store)
    done = cli.run("run", "reconcile", "--repair")
    names = f"{harness.users[3]} {harness.agents[2]}"
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{names} usage_count: 500 instead of 7, unexplained: --accept-unexplained records it as opening balance",
        f"{names} message_count: 1 instead of 7",
        f"1 pair and {len(days)} days compared: 2 differences, 1 left, 1 of them unexplained",
    ]
    done = cli.run("run", "reconcile", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["left"], report["unexplained"]) == (1, 1, 1)
    assert [it["unexplained"] for it in report["differences"]] == [True]
    done = cli.run("run", "reconcile", "--accept-unexplained")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"{names} usage_count: 500 instead of 7, unexplained: recorded as opening balance",
    )
    assert run(url_of(harness), "SELECT usage_count FROM public.user_agents") == [(500,)]
