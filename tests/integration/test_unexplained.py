"""Counters that neither days nor ledger explain: no repair lowers them; accepted ones become opening balances."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import run
from tests.integration.retired import repeated_calls, soft_delete, track
from tests.integration.test_reconcile import (
    TODAY,
    YESTERDAY,
    check,
    count_one_pair,
    damage,
    traffic,
    use,
)
from tests.integration.users import session_as
from usage_worker.errors import SettingsError
from usage_worker.maintenance import RECONCILE, ReconcileReport, Scope, reconcile, run_task
from usage_worker.maintenance import purge as purge_rows
from usage_worker.store import Store, retained_days
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Postgres
    from tests.integration.conftest import Bench
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


def url_of(bench: Bench) -> str:
    return bench.resources.settings.database_url


def counters(bench: Bench) -> list[tuple[Any, ...]]:
    return run(url_of(bench), COUNTERS)


def repair(bench: Bench) -> ReconcileReport:
    return check(bench, repair=True)


def accept(bench: Bench) -> ReconcileReport:
    return reconcile(bench.resources.store, bench.resources.settings, accept_unexplained=True)


def unexplained(report: ReconcileReport) -> set[tuple[date | None, str]]:
    return {(date.fromisoformat(it.day) if it.day else None, it.column) for it in report.differences if it.unexplained}


def check_kept_then_accepted(bench: Bench) -> None:
    """Assert that repair names and keeps unexplained totals, and that accepting balances them at the same height."""
    kept = counters(bench)
    report = repair(bench)
    assert counters(bench) == kept
    assert report.unexplained == report.left == len(report.differences) > 0
    check_accepted(bench)
    assert counters(bench) == kept


def check_accepted(bench: Bench) -> None:
    report = accept(bench)
    assert (report.left, report.unexplained, report.complete) == (0, 0, True)
    assert check(bench).differences == []
    assert bench.resources.store.rows(testing_query("unbalanced")) == []


def test_rows_restored_from_dump_keep_counters(bench: Bench, postgres: Postgres, tmp_path: Path) -> None:
    url, dump = url_of(bench), tmp_path / "user_agents.sql"
    bench.publish(*traffic(bench, 500, 11))
    count_one_pair(bench)
    before = counters(bench)
    options = ("--data-only", "--table=public.user_agents", f"--file={dump}", f"--dbname={url}")
    subprocess.run([postgres.bin_dir / "pg_dump", *options], check=True, capture_output=True)
    run(url, "DELETE FROM public.user_agents")
    options = ("--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={dump}", f"--dbname={url}")
    subprocess.run([postgres.bin_dir / "psql", *options], check=True, capture_output=True)
    assert counters(bench) == before
    check_kept_then_accepted(bench)
    bench.publish(*use(bench, TODAY, 2))
    bench.flush()
    assert check(bench).differences == []
    bench.check()


def test_counters_written_by_service_are_kept(bench: Bench) -> None:
    """An old application writes its own counters beside the stream, into rows of its own and into used ones."""
    count_one_pair(bench)
    with session_as(url_of(bench), "service_role") as service:
        service.execute(
            "UPDATE public.user_agents SET usage_count = 507, total_cost_usd = 99.5, conversation_count = 40"
        )
        service.execute(f"{IMPORT} VALUES (%s, %s, 40, 40, NULL)", (bench.users[0], bench.agents[0]))
    check_kept_then_accepted(bench)
    assert run(url_of(bench), OPENINGS) == [(40,), (500,)]


def test_imported_average_counts_once_per_use(bench: Bench) -> None:
    """As for rows that are older than 4.0.0: of the latency of the past the average is all that is known."""
    with session_as(url_of(bench), "service_role") as service:
        service.execute(f"{IMPORT} VALUES (%s, %s, 3, 3, 250)", (bench.users[0], bench.agents[0]))
    assert repair(bench).left == 2
    check_accepted(bench)
    track(url_of(bench), bench.users[0], bench.agents[0])
    latency = "SELECT response_time_total_ms, response_time_samples, avg_response_time_ms FROM public.user_agents"
    assert run(url_of(bench), latency) == [(3 * 250 + 100, 4, 213)]
    assert check(bench).differences == []


def test_repair_raises_only_low_counters_of_mixed_row(bench: Bench) -> None:
    count_one_pair(bench)
    damage(
        bench,
        "UPDATE user_agents SET usage_count = 9, total_tokens_used = 1, response_time_samples = 2,"
        " response_time_total_ms = 5600, avg_response_time_ms = 1, message_count = 3, conversation_count = 5",
    )
    report = repair(bench)
    high = {(None, "usage_count"), (None, "response_time_total_ms"), (None, "conversation_count")}
    assert unexplained(report) == high
    assert (report.left, report.unexplained) == (3, 3)
    figures = f"SELECT {FIGURES}, avg_response_time_ms FROM public.user_agents"
    assert run(url_of(bench), figures) == [(9, 7, 5, 7, 0, 70, Decimal("1.75"), 5600, 7, 800)]
    assert unexplained(check(bench)) == high
    check_accepted(bench)
    assert run(url_of(bench), figures) == [(9, 7, 5, 7, 0, 70, Decimal("1.75"), 5600, 7, 800)]


def test_missing_day_explains_counters(bench: Bench) -> None:
    """To a comparison, too, though nothing is repaired then."""
    count_one_pair(bench)
    damage(bench, "DELETE FROM usage_daily WHERE day = '{yesterday}'")
    assert check(bench).unexplained == 0
    damage(bench, "UPDATE user_agents SET usage_count = 8, error_count = 1")
    assert unexplained(check(bench)) == {(None, "usage_count"), (None, "error_count")}
    report = repair(bench)
    assert (unexplained(report), report.left) == ({(None, "usage_count"), (None, "error_count")}, 2)
    assert check(bench).left == 2


LOST: dict[str, tuple[str, set[tuple[date | None, str]]]] = {
    "events": ("DELETE FROM {partition}", {(TODAY, "usage_count"), (TODAY, "input_tokens"), (TODAY, "total_cost_usd")}),
    "conversations": (
        "DELETE FROM user_agent_conversations",
        {(None, "conversation_count"), (None, "usage_daily.conversation_count")},
    ),
}


@pytest.mark.parametrize("lost", LOST)
def test_totals_on_which_counters_and_days_agree_are_kept(bench: Bench, lost: str) -> None:
    """Where a backup has left out the ledger, or the notes of conversations, the rest was right."""
    statement, named = LOST[lost]
    count_one_pair(bench)
    damage(bench, statement)
    assert unexplained(check(bench)) >= named
    days = "SELECT * FROM public.usage_daily ORDER BY day"
    kept = run(url_of(bench), days)
    check_kept_then_accepted(bench)
    booked = f"SELECT sum(usage_count), sum(input_tokens), sum(conversation_count) FROM ({days}) AS days"
    assert run(url_of(bench), booked) == [(7, 70, 2)]
    assert kept != run(url_of(bench), days)


def test_day_is_lowered_to_sum_that_counters_have(bench: Bench) -> None:
    count_one_pair(bench)
    damage(
        bench,
        "UPDATE usage_daily SET usage_count = 8, input_tokens = 50 WHERE day = '{today}';"
        " UPDATE user_agents SET usage_count = 9",
    )
    report = repair(bench)
    assert unexplained(report) == {(TODAY, "usage_count")}
    assert run(url_of(bench), "SELECT usage_count, input_tokens FROM public.usage_daily ORDER BY day") == [
        (4, 40),
        (5, 30),
    ]
    check_accepted(bench)
    assert run(url_of(bench), OPENINGS) == [(2,)]


@pytest.mark.parametrize(("short", "long"), [(YESTERDAY, TODAY), (TODAY, YESTERDAY)])
def test_uses_on_wrong_day_are_moved(bench: Bench, short: date, long: date) -> None:
    """They seem unexplained only as long as the other day lacks them."""
    count_one_pair(bench)
    moved = "UPDATE public.usage_daily SET usage_count = usage_count + %s WHERE day = %s"
    run(url_of(bench), moved, -2, short)
    run(url_of(bench), moved, 2, long)
    assert accept(bench).left == 0
    assert check(bench).differences == []
    assert run(url_of(bench), OPENINGS) == []
    bench.check()


def test_retired_rows_are_lowered_before_live_rows(bench: Bench) -> None:
    """The ledger has lost everything: what ended lives hold beyond it stands behind no counter."""
    pair = bench.users[3], bench.agents[2]
    count_one_pair(bench)
    soft_delete(url_of(bench), *pair)
    purge_rows(bench.resources.store, timedelta(days=30))
    track(url_of(bench), *pair)
    damage(bench, "DELETE FROM usage_events")
    report = repair(bench)
    assert {it.column for it in report.differences if it.unexplained} >= {"usage_count", "total_tokens_used"}
    assert run(url_of(bench), "SELECT sum(usage_count) FROM public.usage_retired_daily") == [(0,)]
    assert run(url_of(bench), "SELECT day, usage_count FROM public.usage_daily") == [(TODAY, 1)]
    check_accepted(bench)
    assert run(url_of(bench), "SELECT usage_count FROM public.user_agents") == [(1,)]


def test_no_value_stops_repair(bench: Bench) -> None:
    """NULL is 0, and what a column cannot hold is left and named."""
    count_one_pair(bench)
    damage(
        bench,
        "UPDATE user_agents SET total_cost_usd = NULL, message_count = NULL;"
        " SELECT public.usage_events_ensure_day('{earlier}');"
        " INSERT INTO usage_daily (user_id, agent_id, day, usage_count) SELECT user_id, agent_id, '2020-01-01',"
        " 3000000000 FROM user_agents",
    )
    run(url_of(bench), f"{IMPORT} VALUES (%s, %s, 1, NULL, 0)", bench.users[0], bench.agents[0])
    report = repair(bench)
    assert {(it.column, it.unexplained) for it in report.differences if it.found == 7} == {("usage_count", False)}
    assert (report.left, report.unexplained) == (2, 1)
    found = "SELECT usage_count, message_count, total_cost_usd FROM public.user_agents ORDER BY 1"
    assert run(url_of(bench), found) == [(1, 0, 0), (7, 7, Decimal("1.75"))]
    damage(bench, "DELETE FROM usage_daily WHERE day = '2020-01-01'")
    check_accepted(bench)


def test_unexplained_differences_do_not_hide_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more of them than are locked at once stand before the pairs that can be repaired, on days as in counters."""
    monkeypatch.setattr(import_module("usage_worker.maintenance.reconcile"), "REPAIR_PAIRS", 30)
    bench.publish(*traffic(bench, 1_000, 12))
    bench.flush()
    last = max(bench.users)
    run(url_of(bench), "DELETE FROM public.usage_events WHERE user_id <> %s", last)
    run(url_of(bench), "UPDATE public.user_agents SET message_count = message_count + 1 WHERE user_id <> %s", last)
    run(url_of(bench), "UPDATE public.usage_daily SET error_count = 1000 WHERE user_id = %s", last)
    run(url_of(bench), "UPDATE public.user_agents SET message_count = 0 WHERE user_id = %s", last)
    report = repair(bench)
    assert report.unexplained == report.left > 100
    assert {it.user_id for it in check(bench).differences} == {str(user) for user in bench.users} - {str(last)}
    check_accepted(bench)


def test_repeated_or_concurrent_accept_records_once(bench: Bench, make_resources: Callable[..., Resources]) -> None:
    bench.publish(*traffic(bench, 500, 13))
    bench.flush()
    run(url_of(bench), "UPDATE public.user_agents SET usage_count = usage_count + 10")
    kept = counters(bench)
    stores = make_resources().store, make_resources().store
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(lambda store: reconcile(store, bench.resources.settings, accept_unexplained=True), stores)
    assert sum(len(report.differences) for report in reports) >= len(kept)
    assert accept(bench).differences == []
    assert counters(bench) == kept
    assert set(run(url_of(bench), OPENINGS)) == {(10,)}
    assert bench.resources.store.rows(testing_query("unbalanced")) == []


def test_opening_balance_is_retired_with_its_row(bench: Bench) -> None:
    pair = bench.users[3], bench.agents[2]
    count_one_pair(bench)
    damage(bench, "UPDATE user_agents SET usage_count = 20")
    check_accepted(bench)
    soft_delete(url_of(bench), *pair)
    purge_rows(bench.resources.store, timedelta(days=30))
    assert check(bench).differences == []
    track(url_of(bench), *pair)
    assert run(url_of(bench), "SELECT usage_count FROM public.user_agents") == [(1,)]
    assert check(bench).differences == []


def test_accept_is_exact_during_ingest_and_import(bench: Bench, make_resources: Callable[..., Resources]) -> None:
    """Stream, SQL and a service that adds to the counters go on while two processes repair and accept."""
    url, settings = url_of(bench), bench.resources.settings
    accepted = traffic(bench, 2_000, 14)
    bench.publish(*accepted)
    bench.flush()
    imported, chosen = 0, random.Random(15)
    others = make_resources(), make_resources()
    reports: list[ReconcileReport] = []

    def publish() -> None:
        more = traffic(bench, 200, len(accepted))
        bench.publish(*more)
        accepted.extend(more)

    def flush() -> None:
        for shard in range(2):
            others[0].flusher.flush(shard, 5)

    def import_rows() -> None:
        nonlocal imported
        with session_as(url, "service_role") as service:
            raised = "UPDATE public.user_agents SET usage_count = usage_count + 5 WHERE (user_id, agent_id) = (%s, %s)"
            imported += service.execute(raised, (chosen.choice(bench.users), chosen.choice(bench.agents))).rowcount

    def run_repair() -> None:
        with Store(url) as store:
            reports.append(reconcile(store, settings, repair=True))

    def add_intake() -> None:
        with Store(url) as store:
            reports.append(reconcile(store, settings, accept_unexplained=True))

    with repeated_calls(publish, flush, import_rows, run_repair, add_intake):
        eventually(lambda: len(accepted) > 2_500 and len(reports) > 3, 60)
    eventually(lambda: not bench.flush().accepted)
    check_accepted(bench)
    assert any(report.unexplained for report in reports)
    (uses,) = run(url, "SELECT sum(usage_count)::int FROM public.user_agents")[0]
    assert uses == 5 * imported + sum(event.get("type") != "rating" for event in accepted)
    assert repair(bench).differences == []


def test_scheduled_reconcile_changes_nothing(bench: Bench) -> None:
    count_one_pair(bench)
    damage(bench, "UPDATE user_agents SET usage_count = 9, message_count = 0")
    before = counters(bench)
    store, settings = bench.resources.store, bench.resources.settings
    figures = run_task(store, RECONCILE, lambda: reconcile(store, settings, budget=60))
    assert (figures["left"], figures["unexplained"]) == (2, 1)
    assert counters(bench) == before


def test_accept_needs_all_days(bench: Bench) -> None:
    with pytest.raises(SettingsError, match="--accept-unexplained compares all days"):
        reconcile(bench.resources.store, bench.resources.settings, Scope(TODAY, TODAY), accept_unexplained=True)


def test_command_prints_figures(bench: Bench, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=url_of(bench), REDIS_URL=bench.resources.settings.redis_url)
    count_one_pair(bench)
    damage(bench, "UPDATE user_agents SET usage_count = 500, message_count = 1")
    days = retained_days(bench.resources.store)
    done = cli.run("reconcile", "--repair")
    names = f"{bench.users[3]} {bench.agents[2]}"
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{names} usage_count: 500 instead of 7, unexplained: --accept-unexplained books it as opening balance",
        f"{names} message_count: 1 instead of 7",
        f"1 pairs and {len(days)} days compared: 2 differences, 1 left, 1 of them unexplained",
    ]
    done = cli.run("reconcile", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["left"], report["unexplained"]) == (1, 1, 1)
    assert [it["unexplained"] for it in report["differences"]] == [True]
    done = cli.run("reconcile", "--accept-unexplained")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"{names} usage_count: 500 instead of 7, unexplained: booked as opening balance",
    )
    assert run(url_of(bench), "SELECT usage_count FROM public.user_agents") == [(500,)]
