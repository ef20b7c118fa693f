"""The hourly roll-up as it should be, in plain Python over the ledger, and as it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from tests.hourly import bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    Rows = dict[tuple[Any, ...], dict[str, Any]]

SUMS = {
    "message_count": "messages",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "total_tokens_used": "tokens",
    "response_time_total_ms": "response_time_ms",
}


def hour_of(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(time: datetime) -> date:
    return time.astimezone(UTC).date()


def expected(events: list[dict[str, Any]], period: Callable[[datetime], date | datetime]) -> Rows:
    """Return the rows of these events of the ledger, by period, agent, model and provider."""
    uses = defaultdict(list)
    for event in events:
        if event["type"] == "usage":
            key = period(event["occurred_at"]), event["agent_id"], event["model"] or "", event["provider"] or ""
            uses[key].append(event)
    return {key: _row(found) for key, found in uses.items()}


def _row(uses: list[dict[str, Any]]) -> dict[str, Any]:
    costs = [use["cost_usd"] for use in uses if use["cost_usd"] is not None]
    times = [use["response_time_ms"] for use in uses if use["response_time_ms"] is not None]
    buckets = Counter(map(bucket, times))
    return {
        "usage_count": len(uses),
        "success_count": sum(use["success"] for use in uses),
        "error_count": sum(not use["success"] for use in uses),
        **{name: sum(use[field] or 0 for use in uses) for name, field in SUMS.items()},
        "total_cost_usd": sum(costs) if costs else None,
        "cost_samples": len(costs),
        "response_time_samples": len(times),
        "latency_buckets": sorted(buckets),
        "latency_counts": [buckets[number] for number in sorted(buckets)],
        "users": len({use["user_id"] for use in uses}),
    }


def ledger(database: str) -> list[dict[str, Any]]:
    return _select(database, "SELECT * FROM usage_events")


def rolled_up(database: str, table: str = "agent_usage_hourly", period: str = "hour") -> Rows:
    """Return the rows of the roll-up, in the same form."""
    rows = _select(database, f"SELECT * FROM {table}")
    return {tuple(row.pop(name) for name in (period, "agent_id", "model", "provider")): row for row in rows}


def check_hours(database: str) -> None:
    """Assert that every column of every hour equals the ledger."""
    assert rolled_up(database) == expected(ledger(database), hour_of)


def marks(database: str) -> set[datetime]:
    return {row["hour"] for row in _select(database, "SELECT hour FROM agent_usage_hour_marks")}


def _select(database: str, statement: str) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute(statement.encode()).fetchall()
