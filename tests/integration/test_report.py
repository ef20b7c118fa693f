"""`usage-worker report`: totals by day of a time zone, by agent and so on, and as a page."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from tests.hostile import HOSTILE_TEXT, check_shown
from tests.integration.commands import Cli
from tests.integration.database import run
from usage_worker.reporting import page_report
from usage_worker.store.connection import Store
from usage_worker.store.usage_summary import Days

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import IngestHarness


@pytest.fixture
def cli(tmp_path: Path, database: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database)


# A half-hour offset, the extreme offsets, and daylight saving time, with days of 23 and 25 hours.
ZONES = ("Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin")


def test_days_follow_time_zone(harness: IngestHarness, cli: Cli) -> None:
    now = datetime.now(UTC)
    events: list[dict[str, Any]] = [
        {
            "event_id": uuid4(),
            "occurred_at": now - number * timedelta(hours=3, minutes=17),
            "user_id": harness.users[number % 2],
            "agent_id": harness.agents[0],
            "messages": 2,
            "tokens": number,
            "cost_usd": Decimal(number) / 10**10,
            "response_time_ms": number if number % 3 else None,
            "success": number % 5 > 0,
        }
        for number in range(220)
    ]
    harness.publish(*events)
    harness.flush()
    assert_days(cli, "UTC", events)
    for zone in ZONES:
        cli.env["USAGE_TIMEZONE"] = zone
        assert_days(cli, zone, events)
    user = harness.users[1]
    assert_days(cli, zone, [event for event in events if event["user_id"] == user], "--user", str(user))


def assert_days(cli: Cli, zone: str, events: list[dict[str, Any]], *options: str) -> None:
    days: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        days[str(event["occurred_at"].astimezone(ZoneInfo(zone)).date())].append(event)
    before = datetime.now(ZoneInfo(zone)).date()
    rows = json.loads(cli.run("report", "--days", "30", "--json", *options).stdout)
    today = date.fromisoformat(rows[-1]["day"])
    assert before <= today <= datetime.now(ZoneInfo(zone)).date()
    dates = [str(today - timedelta(days=back)) for back in range(29, -1, -1)]
    for row in rows:
        assert_percentiles(row, [event["response_time_ms"] for event in days[row["day"]]])
    assert rows == [expected(day, days[day]) for day in dates]


def assert_percentiles(row: dict[str, Any], latencies: list[int | None]) -> None:
    """Take the percentiles out of a row, and compare them: the smallest value that so many do not exceed."""
    known = sorted(value for value in latencies if value is not None)
    for percent in (50, 95, 99):
        found = row.pop(f"p{percent}_ms")
        if len(known) < 20:
            assert found is None
        else:
            assert found == pytest.approx(known[-(-len(known) * percent // 100) - 1], rel=0.0201)


def expected(day: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    latencies = [event["response_time_ms"] for event in events if event["response_time_ms"] is not None]
    rate = Decimal(100 * sum(event["success"] for event in events)) / max(len(events), 1)
    return {
        "day": day,
        "usage_count": len(events),
        "message_count": 2 * len(events),
        "total_tokens_used": sum(event["tokens"] for event in events),
        "total_cost_usd": f"{sum((event['cost_usd'] for event in events), Decimal(0)):.10f}",
        "success_rate_percent": f"{rate:.2f}" if events else None,
        "avg_response_time_ms": int(Decimal(sum(latencies)) / len(latencies) + Decimal("0.5")) if latencies else None,
        "users": len({event["user_id"] for event in events}),
    }


def test_output_is_tab_separated(harness: IngestHarness, cli: Cli) -> None:
    done = cli.run("report", "--days", "2")
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert header[:2] == ["day", "usage_count"]
    unused = ["0", "0", "0", "0.0000000000", "", "", "", "", "", "0"]
    assert [line[1:] for line in lines] == [unused] * 2
    # More days than the ledger keeps.
    assert len(cli.run("report", "--days", "120").stdout.splitlines()) == 121


def test_invalid_options_are_refused(cli: Cli) -> None:
    refused = {
        "--days 2 --from 2026-01-01": "--days: leave it out, or leave out the first day",
        "--from 2026-01-03 --to 2026-01-02": "--from: 2026-01-03 is after the last day, 2026-01-02",
        "--from 0001-01-01": "--from: at most 3,660 days; give 20",
        "--html page.html --json": "--html: the page has everything; leave out --json and --by",
        "--html page.html --by agent": "--html: the page has everything; leave out --json and --by",
        "--html missing/page.html": "'missing/page.html': No such file or directory",
        "--user nobody": "no event has named the user 'nobody'",
    }
    lines = cli.error_lines(*(f"report {options}" for options in refused))
    for line, reason in zip(lines, refused.values(), strict=True):
        assert reason in line
    assert list(cli.folder.iterdir()) == []
    (cli.folder / "loop").symlink_to("loop")
    assert "'loop'" in cli.error_line("report --html loop")
    cli.env["USAGE_TIMEZONE"] = "Europe/Atlantis"
    assert "USAGE_TIMEZONE" in cli.error_line("report")


def test_sums_exceed_the_type_of_a_counter(database: str, cli: Cli) -> None:
    insert = """
        INSERT INTO public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens,
                                         output_tokens, tokens, cost_usd, success)
        SELECT gen_random_uuid(), now(), 'usage', gen_random_uuid(), gen_random_uuid(), 2147483647, 0, 0,
               9223372036854775807, 9999999999, true
          FROM generate_series(1, 3)
    """
    run(database, "SELECT public.usage_events_ensure_day((now() AT TIME ZONE 'UTC')::date)")
    run(database, insert)
    done = cli.run("report", "--days", "2", "--json")
    assert done.returncode == 0, done.stderr
    days = json.loads(done.stdout)
    assert sum(day["total_tokens_used"] for day in days) == 3 * (2**63 - 1)
    assert sum(day["message_count"] for day in days) == 3 * (2**31 - 1)
    assert sum(Decimal(day["total_cost_usd"]) for day in days) == 3 * 9_999_999_999
    assert str(3 * (2**63 - 1)) in cli.run("report").stdout


@pytest.fixture
def named(harness: IngestHarness, database: str) -> IngestHarness:
    """Return a harness with 60 uses of two days; an agent's name is hostile, and one agent is deleted since."""
    now = datetime.now(UTC)
    harness.publish(
        *(
            {
                "event_id": uuid4(),
                "occurred_at": now - timedelta(days=number % 2),
                "user_id": harness.users[number % 7],
                "agent_id": harness.agents[0 if number % 3 else 1],
                "tokens": number,
                "input_tokens": number,
                "cost_usd": Decimal("0.5") if number % 4 else None,
                "response_time_ms": 100 + number,
                "model": HOSTILE_TEXT if number % 2 else None,
            }
            for number in range(60)
        )
    )
    harness.flush()
    run(database, "UPDATE agents SET name = %s WHERE id = %s", HOSTILE_TEXT, harness.agents[0])
    run(database, "DELETE FROM agents WHERE id = %s", harness.agents[1])
    return harness


def test_groups_have_names_and_are_ordered_by_uses(named: IngestHarness, cli: Cli) -> None:
    outputs = {by: cli.run("report", "--by", by, "--json") for by in ("agent", "user", "model")}
    rows = {by: json.loads(done.stdout) for by, done in outputs.items()}
    assert [(row["agent_id"], row["usage_count"], row["users"]) for row in rows["agent"]] == [
        (str(named.agents[0]), 40, 7),
        (str(named.agents[1]), 20, 7),
    ]
    assert [row["agent"] for row in rows["agent"]] == [HOSTILE_TEXT, None]
    assert {row["user_id"] for row in rows["user"]} == {str(user) for user in named.users[:7]}
    assert [row["usage_count"] for row in rows["user"]] == [9, 9, 9, 9, 8, 8, 8]
    assert {row["model"] for row in rows["model"]} == {HOSTILE_TEXT, None}
    check_shown(cli.run("report", "--by", "agent").stdout, 11)


def test_range_includes_both_days(named: IngestHarness, cli: Cli) -> None:
    today = datetime.now(UTC).date()
    rows = json.loads(cli.run("report", "--from", f"{today - timedelta(3)}", "--to", f"{today}", "--json").stdout)
    assert [row["day"] for row in rows] == [f"{today - timedelta(back)}" for back in (3, 2, 1, 0)]
    assert [row["usage_count"] for row in rows] == [0, 0, 30, 30]
    hours = json.loads(cli.run("report", "--by", "hour", "--to", f"{today - timedelta(1)}", "--json").stdout)
    assert [row["usage_count"] for row in hours] == [30]
    assert named.users


def test_unknown_cost_is_not_shown_as_zero(harness: IngestHarness, cli: Cli) -> None:
    use = {
        "event_id": uuid4(),
        "occurred_at": datetime.now(UTC),
        "user_id": harness.users[0],
        "agent_id": harness.agents[0],
    }
    harness.publish(use)
    harness.flush()
    (row,) = json.loads(cli.run("report", "--days", "1", "--json").stdout)
    assert (row["usage_count"], row["total_cost_usd"]) == (1, None)


def test_page_is_written_whole_or_not_at_all(named: IngestHarness, cli: Cli, ingest_url: str) -> None:
    page = cli.folder / "page.html"
    page.write_text("before")
    page.chmod(0o600)
    done = cli.run("report", "--html", "page.html")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert str(named.agents[1]) in text
    assert list(cli.folder.iterdir()) == [page]
    assert page.stat().st_mode & 0o777 == 0o600
    assert cli.run("report", "--html", "-", "--user", str(named.users[0])).stdout.startswith("<!DOCTYPE html>")
    cli.env["DATABASE_URL"] = ingest_url
    assert "permission denied for function usage_summary" in cli.error_line("report --html page.html")
    assert page.read_text() == text


def test_page_of_a_user_does_not_say_that_no_use_has_a_cost(database: str) -> None:
    """Of days that the ledger has dropped, only the totals of pairs are known."""
    user, day = UUID(int=1), datetime.now(UTC).date() - timedelta(days=400)
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", user)
    run(database, "INSERT INTO agents (id, name) VALUES (%s, 'support')", user)
    run(database, "INSERT INTO user_agents (user_id, agent_id) SELECT id, id FROM agents")
    insert = """
        INSERT INTO usage_daily (user_id, agent_id, day, usage_count, success_count, total_cost_usd)
        SELECT id, id, %s, 30, 30, 3 FROM agents
    """
    run(database, insert, day)
    with Store(database) as store:
        report = page_report(store, Days(day, day, "UTC"), user)
    assert (report.total.usage_count, report.total.total_cost_usd) == (30, Decimal(3))
    assert report.total.uses_without_cost is None


def test_page_has_the_totals_of_the_ledger(named: IngestHarness, database: str) -> None:
    today = datetime.now(UTC).date()
    with Store(database) as store:
        report = page_report(store, Days(today - timedelta(6), today, "UTC"))
    columns = "count(*), sum(tokens), sum(cost_usd), count(*) - count(cost_usd), count(DISTINCT user_id)"
    ledger = run(database, f"SELECT {columns} FROM usage_events")
    total = report.total
    found = total.usage_count, total.total_tokens_used, total.total_cost_usd, total.uses_without_cost, total.users
    assert [found] == ledger
    assert [len(report.days), len(report.agents), len(report.users), len(report.models)] == [7, 2, 7, 2]
    unused = report.days[0].totals
    assert (unused.total_cost_usd, unused.p95_ms) == (Decimal(0), None)
    for parts in (report.agents, report.users, report.models, report.days):
        assert sum(part.totals.usage_count for part in parts) == 60
    assert [agent.name for agent in report.agents] == [HOSTILE_TEXT, str(named.agents[1])]
    assert {model.name for model in report.models} == {HOSTILE_TEXT, None}
