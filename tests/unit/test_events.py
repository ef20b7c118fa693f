"""Validation of events: accepted values, defaults, and the messages of refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import pytest

from usage_worker.errors import EventRefusedError
from usage_worker.events.columns import NAMES
from usage_worker.events.event import KEY_NAMESPACE, REQUIRED, Window, microseconds, time_text
from usage_worker.events.wire import Prepared, prepare

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = Window.around(NOW, timedelta(days=35))
USER, AGENT = UUID(int=1), UUID(int=2)


def event(**fields: Any) -> Prepared:
    return prepare({"user_id": USER, "agent_id": AGENT, "occurred_at": NOW, "event_id": UUID(int=3)} | fields, WINDOW)


def row(**fields: Any) -> dict[str, Any]:
    """Return the values of an event's row by name."""
    return dict(zip(NAMES, event(**fields).row, strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"user_id": "me"}, "user_id: Input should be a valid UUID"),
        ({"agent_id": None}, "agent_id: UUID input should be"),
        ({"messages": -1}, "messages: Input should be greater than or equal to 0"),
        ({"messages": 1_000_001}, "messages: Input should be less than or equal to 1000000"),
        ({"messages": "many"}, "messages: Input should be a valid integer"),
        ({"input_tokens": -1}, "input_tokens: Input should be greater"),
        ({"tokens": 10**12 + 1}, "tokens: Input should be less"),
        ({"input_tokens": 10**12, "output_tokens": 1}, "tokens: the sum of input and output tokens must be at most"),
        ({"cost_usd": "-0.1"}, "cost_usd: Input should be greater"),
        ({"cost_usd": "1000000.01"}, "cost_usd: Input should be less"),
        ({"cost_usd": "NaN"}, "cost_usd: Input should be a finite number"),
        ({"response_time_ms": 86_400_001}, "response_time_ms: Input should be less"),
        ({"model": "m" * 201}, "model: String should have at most 200 characters"),
        ({"model": "a\x00b"}, "model: String should match pattern"),
        ({"event_id": "k" * 256}, "event_id: "),
        ({"occurred_at": datetime(2026, 3, 1, 12)}, "occurred_at: Input should have timezone info"),  # noqa: DTZ001
        (
            {"occurred_at": NOW - timedelta(days=35, seconds=1)},
            "occurred_at: older than the acceptance window (35 days)",
        ),
        ({"occurred_at": NOW + timedelta(minutes=5, seconds=1)}, "occurred_at: more than 5 minutes in the future"),
        ({"rating": "4"}, "rating: goes with type rating, and only with it"),
        ({"type": "rating"}, "rating: goes with type rating, and only with it"),
        ({"type": "rating", "rating": "5.1"}, "rating: Input should be less than or equal to 5"),
        ({"type": "click"}, "type: Input should be 'usage' or 'rating'"),
    ],
)
def test_refusals_name_field_and_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EventRefusedError) as refused:
        event(**fields)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("secret", ["hunter2", "2026-01-31Thunter2", "2026-01-31X\x00hunter2", ["hunter2"]])
@pytest.mark.parametrize("field", [name for name in NAMES if name not in ("event_id", "model", "provider")])
def test_refusals_of_one_field_quote_no_value(field: str, secret: object) -> None:
    """An identity, a model and a provider may be any text."""
    with pytest.raises(EventRefusedError) as refused:
        event(**{field: secret})
    assert "hunter2" not in str(refused.value).lower()


def test_refusals_quote_no_values() -> None:
    with pytest.raises(EventRefusedError) as refused:
        event(model="hunter2" * 40, user_id="hunter2")
    assert "hunter2" not in str(refused.value)


def test_defaults() -> None:
    found = row(input_tokens=3, output_tokens=4)
    assert (found["messages"], found["success"], found["type"]) == (1, True, "usage")
    unknown = {"cost_usd", "response_time_ms", "conversation_id", "model", "provider", "rating", "tokens"}
    parts = {"cached_input_tokens", "cache_write_tokens", "reasoning_tokens"}
    assert {name for name, value in found.items() if value is None} == unknown | parts


def test_given_tokens_override_sum() -> None:
    assert row(input_tokens=3, output_tokens=4, tokens=5)["tokens"] == 5


@pytest.mark.parametrize(
    ("cost", "units"),
    [
        ("0.0000000001", 1),
        (Decimal("1.5E-7"), 1_500),
        (3, 30_000_000_000),
        ("-0", 0),
        ("1e3", 10**13),
        (Decimal(1_000_000), 10**16),
    ],
)
def test_cost_keeps_every_decimal_digit(cost: Any, units: int) -> None:
    found = row(cost_usd=cost)["cost_usd"]
    assert (found, type(found)) == (units, int)


def test_times_are_microseconds() -> None:
    time = row(occurred_at=datetime.fromisoformat("2026-03-01T12:30:00+02:00"))["occurred_at"]
    assert time_text(time) == "2026-03-01T10:30:00.000000Z"


def test_identity_and_time_are_filled_in() -> None:
    window = Window.around(datetime.now(UTC), timedelta(days=1))
    before = microseconds(datetime.now(UTC))
    made = prepare({"user_id": USER, "agent_id": AGENT}, window)
    assert UUID(made.event_id).version == 7
    identity, occurred_at = made.row[:2]
    assert identity == made.event_id
    assert isinstance(occurred_at, int)
    assert before <= occurred_at <= microseconds(datetime.now(UTC))


def test_application_key_becomes_stable_uuid5() -> None:
    assert event(event_id="order-7").event_id == str(uuid5(KEY_NAMESPACE, "order-7"))


def test_only_the_pair_is_required() -> None:
    assert {"user_id", "agent_id"} == REQUIRED


def test_missing_fields_are_named() -> None:
    with pytest.raises(EventRefusedError, match="agent_id: Field required"):
        prepare({"user_id": USER, "colour": "red"}, WINDOW)


@pytest.mark.parametrize("text", ["0E-999999999", "-0", "0E+999999999"])
def test_zero_is_zero_whatever_its_exponent(text: str) -> None:
    assert row(cost_usd=Decimal(text))["cost_usd"] == 0


@pytest.mark.parametrize(
    "now", [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)]
)
def test_window_of_backfill_begins_with_second_day_of_ledger(now: datetime) -> None:
    """A ledger that is kept for two days still has 27 February on 1 March, and drops it after midnight."""
    first = microseconds(datetime(2026, 2, 28, tzinfo=UTC))
    window = Window.of_backfill(now, 2)
    assert window.refusal(first) is None
    assert window.refusal(first - 1) == "occurred_at: older than the ledger keeps events (2 days)"
    assert Window.of_backfill(now, 10**9).refusal(0) is None
    assert Window.of_backfill(now, 10**9).refusal(-1)
