"""Rows of `agent_usage_hourly` for tests, without a ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)
GROWTH = 1.02 / 0.98
COLUMNS = (
    "hour, agent_id, model, provider, usage_count, message_count, success_count, error_count, input_tokens,"
    " output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd,"
    " cost_samples, response_time_total_ms, response_time_samples, latency_buckets, latency_counts, users"
)


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of an agent; `times_ms` are its response times in milliseconds, each with the number of uses."""

    agent_id: UUID
    hour: datetime
    uses: int
    cost_usd: float | None = None
    errors: int = 0
    times_ms: tuple[tuple[int, int], ...] = ()
    model: str = ""


def write_hours(url: str, hours: Iterable[Hour], begin: datetime, end: datetime) -> None:
    """Add the hours, all between `begin` and `end`."""
    with psycopg.connect(url) as connection:
        for day in range((end - begin).days + 1):
            connection.execute("SELECT agent_usage_hourly_ensure_month(%s)", [(begin + day * DAY).date()])
        with connection.cursor().copy(f"COPY agent_usage_hourly ({COLUMNS}) FROM STDIN") as copy:
            for it in hours:
                copy.write_row(_row(it))
        connection.execute("ANALYZE agent_usage_hourly")


def bucket(milliseconds: int) -> int:
    """Return the bucket of a response time, as `usage_latency_bucket` does."""
    return 1 + math.ceil(math.log(milliseconds) / math.log(GROWTH)) if milliseconds else 0


def _row(it: Hour) -> list[object]:
    times = sorted((bucket(ms), number) for ms, number in it.times_ms)
    samples = sum(number for _, number in times)
    priced = 0 if it.cost_usd is None else it.uses
    tokens = [0] * 6
    cost = None if it.cost_usd is None else round(it.cost_usd, 6)
    counts = [it.uses, it.uses, it.uses - it.errors, it.errors]
    histogram = [[number for number, _ in times], [count for _, count in times]]
    return [it.hour, it.agent_id, it.model, "", *counts, *tokens, cost, priced, 0, samples, *histogram, 1]
