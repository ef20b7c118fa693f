"""The oracle's own arithmetic, against figures computed by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from usage_worker.testing import COUNTER_COLUMNS, ExpectedCounters, Oracle

USER, AGENT, OTHER_AGENT = UUID(int=1), UUID(int=2), UUID(int=3)
NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)


def event(number: int, **fields: Any) -> dict[str, Any]:
    time = NOW + timedelta(seconds=number)
    return {"event_id": UUID(int=number), "occurred_at": time, "user_id": USER, "agent_id": AGENT, **fields}


def row(expected: ExpectedCounters, agent: UUID = AGENT) -> dict[str, Any]:
    """Return the row of `user_agents` that has the expected counters."""
    return {"user_id": USER, "agent_id": agent} | {name: getattr(expected, name) for name in COUNTER_COLUMNS}


def add_all(*events: dict[str, Any]) -> Oracle:
    oracle = Oracle()
    for one in events:
        oracle.add(one)
    return oracle


def test_usage_is_summed() -> None:
    first = event(1, messages=2, input_tokens=10, output_tokens=5, cost_usd="0.0000000001", response_time_ms=100)
    second = event(0, tokens=7, success=False, cost_usd=0.1, response_time_ms=101, conversation_id=UUID(int=9))
    third = event(2, messages=0, conversation_id=str(UUID(int=9)))
    counters = add_all(first, second, third).rows[USER, AGENT]
    assert (counters.usage_count, counters.message_count, counters.total_tokens_used) == (3, 3, 22)
    assert (counters.success_count, counters.error_count, counters.conversation_count) == (2, 1, 1)
    assert counters.total_cost_usd == Decimal("0.1000000001")
    assert (counters.response_time_total_ms, counters.response_time_samples) == (201, 2)
    assert (counters.first_used_at, counters.last_used_at) == (NOW, NOW + timedelta(seconds=2))


def test_values_read_from_json_count_like_python_values() -> None:
    values = event(1, cost_usd=Decimal("1.5"), conversation_id=UUID(int=9))
    texts = {name: str(value) for name, value in values.items()} | {"occurred_at": values["occurred_at"].isoformat()}
    assert add_all(texts).rows == add_all(values).rows


def test_repeated_event_is_counted_once() -> None:
    oracle = add_all(event(1), event(1), event(2))
    assert (oracle.published, oracle.distinct) == (3, 2)
    assert oracle.rows[USER, AGENT].usage_count == 2


def test_newest_rating_wins_and_is_not_counted_as_use() -> None:
    counters = add_all(event(2, rating="4"), event(1, rating="1")).rows[USER, AGENT]
    assert (counters.user_rating, counters.last_rating_at) == (Decimal(4), NOW + timedelta(seconds=2))
    assert (counters.usage_count, counters.last_used_at) == (0, None)


@pytest.mark.parametrize(
    ("total", "samples", "average"), [(0, 0, None), (201, 2, 101), (203, 2, 102), (100, 3, 33), (200, 3, 67)]
)
def test_average_response_time_rounds_half_up(total: int, samples: int, average: int | None) -> None:
    counters = ExpectedCounters(response_time_total_ms=total, response_time_samples=samples)
    assert counters.avg_response_time_ms == average


@pytest.mark.parametrize(
    ("rating", "uses", "errors", "score"),
    [
        (None, 0, 0, "1.50"),  # 0.5 · 3
        (None, 1, 0, "3.50"),  # 0.5 · 3 + 0.3 · 5 + 0.2 · 2.5
        ("5", 101, 0, "5.00"),
        ("5", 100, 0, "4.90"),
        ("0", 3, 1, "1.50"),  # 0.3 · 5 · 2/3 + 0.2 · 2.5
        ("4.23", 6, 3, "3.47"),  # 2.115 + 0.75 + 0.6 = 3.465, a half rounded up
    ],
)
def test_quality_score(rating: str | None, uses: int, errors: int, score: str) -> None:
    counters = ExpectedCounters(usage_count=uses, success_count=uses - errors, error_count=errors)
    counters.user_rating = None if rating is None else Decimal(rating)
    assert counters.quality_score == Decimal(score)


def test_differences_name_column_actual_and_expected_value() -> None:
    oracle = add_all(event(1))
    exact = row(oracle.rows[USER, AGENT])
    assert oracle.differences([exact]) == []
    assert oracle.differences([exact | {"message_count": 2}]) == [f"{USER} {AGENT} message_count: 2 instead of 1"]
    assert oracle.differences([]) == [f"{USER} {AGENT}: no row"]


def test_row_without_events_must_have_zero_counters() -> None:
    unused, used = ExpectedCounters(), ExpectedCounters(usage_count=1)
    assert Oracle().differences([row(unused, OTHER_AGENT)]) == []
    assert f"{USER} {OTHER_AGENT} usage_count: 1 instead of 0" in Oracle().differences([row(used, OTHER_AGENT)])
