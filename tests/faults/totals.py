"""Totals of counters, ledger and roll-up, compared with the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from usage_worker.store.connection import Store
    from usage_worker.testing.oracle import Oracle

LEDGER = """
SELECT user_id, agent_id,
       count(*) FILTER (WHERE type = 'usage') AS usage_count,
       coalesce(sum(messages) FILTER (WHERE type = 'usage'), 0) AS message_count,
       count(DISTINCT conversation_id) AS conversation_count,
       count(*) FILTER (WHERE type = 'usage' AND success) AS success_count,
       count(*) FILTER (WHERE type = 'usage' AND NOT success) AS error_count,
       coalesce(sum(tokens), 0) AS total_tokens_used, coalesce(sum(cost_usd), 0) AS total_cost_usd,
       coalesce(sum(response_time_ms), 0) AS response_time_total_ms, count(response_time_ms) AS response_time_samples,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
       coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
       coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens,
       coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
       min(occurred_at) FILTER (WHERE type = 'usage') AS first_used_at,
       max(occurred_at) FILTER (WHERE type = 'usage') AS last_used_at,
       max(occurred_at) FILTER (WHERE type = 'rating') AS last_rating_at
  FROM public.usage_events GROUP BY user_id, agent_id"""

DAILY = """
SELECT user_id, agent_id, day, usage_count, message_count, success_count, error_count, total_tokens_used,
       total_cost_usd, response_time_total_ms, response_time_samples, input_tokens, output_tokens,
       cached_input_tokens, cache_write_tokens, reasoning_tokens
  FROM public.usage_daily"""

# A conversation is counted on the day of the event that arrives first, so conversations by day depend on the order of
# arrival. The query `unbalanced` checks their sum.
DAILY_COLUMNS = (
    *("usage_count", "message_count", "success_count", "error_count", "total_tokens_used", "total_cost_usd"),
    *("response_time_total_ms", "response_time_samples", "input_tokens", "output_tokens"),
    *("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"),
)
LEDGER_COLUMNS = (*DAILY_COLUMNS, "conversation_count", "first_used_at", "last_used_at", "last_rating_at")


def wrong_totals(store: Store, oracle: Oracle, days: Mapping[date, Oracle]) -> list[str]:
    """Return one line for each wrong total: `oracle` expects those of all days, `days` those of each day."""
    by_day = {(*pair, day): row for day, of_day in days.items() for pair, row in of_day.rows.items() if row.usage_count}
    return [
        *oracle.differences(store.rows(testing_query("counters"))),
        *_differences(store.rows(LEDGER), oracle.rows, LEDGER_COLUMNS),
        *_differences(store.rows(DAILY), by_day, DAILY_COLUMNS),
        *(f"unbalanced: {row}" for row in store.rows(testing_query("unbalanced"))),
    ]


def _differences(
    rows: Iterable[Mapping[str, Any]], expected: Mapping[tuple[Any, ...], Any], columns: Sequence[str]
) -> list[str]:
    """Return one line for each wrong value, missing row and unexpected row."""
    actual = {tuple(row[key] for key in ("user_id", "agent_id", "day") if key in row): row for row in rows}
    found = [f"{key}: not expected" for key in actual.keys() - expected.keys()]
    found += [f"{key}: no row" for key in expected.keys() - actual.keys()]
    return found + [
        f"{key} {column}: {actual[key][column]} instead of {getattr(expected[key], column)}"
        for key in actual.keys() & expected.keys()
        for column in columns
        if actual[key][column] != getattr(expected[key], column)
    ]
