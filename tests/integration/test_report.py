"""`usage-worker report`: totals by day of a time zone, from the ledger."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from tests.integration.commands import Cli
from tests.integration.database import run

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
    assert rows == [expected(day, days[day]) for day in dates]


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
    }


def test_output_is_tab_separated(harness: IngestHarness, cli: Cli) -> None:
    done = cli.run("report", "--days", "2")
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert header[:2] == ["day", "usage_count"]
    assert [line[1:] for line in lines] == [["0", "0", "0", "0.0000000000", "", ""]] * 2


def test_invalid_options_are_refused(cli: Cli) -> None:
    assert "--days: the ledger keeps 90 days" in cli.error_line("report --days 91")
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
