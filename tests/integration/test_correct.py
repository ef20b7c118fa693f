"""An event that is corrected counts in every total as if it had been published so."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.integration.corrections import HISTORY, check_corrected, correct_one, corrected, count, use
from tests.integration.database import run
from tests.integration.hours import expected, hour_of, ledger, rolled_up
from usage_worker.errors import ArgumentError, EventRefusedError, ObstacleError
from usage_worker.events.event import identity_of
from usage_worker.maintenance.hours import roll_up_hours
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness

LEDGER = "SELECT cost_usd, cost_source, tokens, recorded_at FROM public.usage_events WHERE event_id = %s"


def test_every_total_follows(harness: IngestHarness, database: str) -> None:
    full = use(
        harness,
        messages=2,
        input_tokens=10,
        output_tokens=5,
        cost_usd="0.5",
        response_time_ms=100,
        cached_input_tokens=4,
        conversation_id=uuid4(),
        model="a",
        success=False,
    )
    bare, other = use(harness, ago=50), use(harness, ago=40, response_time_ms=301, cost_usd="0.0000000001")
    rated = use(harness, ago=30, type="rating", rating="4.5")
    count(harness, full, bare, other, rated)
    roll_up_hours(harness.resources.store)
    full = corrected(
        harness,
        full,
        messages=3,
        input_tokens=120,
        cost_usd="0.25",
        success=True,
        cached_input_tokens=None,
        conversation_id=uuid4(),
        response_time_ms=None,
        reasoning_tokens=1,
        provider="b",
        model="c",
    )
    bare = corrected(harness, bare, response_time_ms="77.5", cost_usd=Decimal("1e-3"), tokens=9, messages=0)
    rated = corrected(harness, rated, rating=2)
    check_corrected(harness, [full, bare, other, rated])
    marked = run(database, "SELECT DISTINCT hour FROM public.agent_usage_hour_marks")
    assert {row[0] for row in marked} == {hour_of(full["occurred_at"]), hour_of(bare["occurred_at"])}
    roll_up_hours(harness.resources.store)
    sums = "SELECT sum(total_cost_usd), sum(total_tokens_used), sum(input_tokens) FROM public.agent_usage_hourly"
    assert run(database, sums) == [(Decimal("0.2510000001"), 134, 120)]


def test_hours_follow(harness: IngestHarness, database: str) -> None:
    """Also where an hour loses its last use of a model, a cost or a time, and its histogram a bucket."""
    first = use(harness, model="a", provider="b", response_time_ms=10, cost_usd=1)
    same = use(harness, ago=61, model="a", provider="b", response_time_ms=2_000, success=False)
    old = use(harness, ago=86_400, model="c", response_time_ms=5, cost_usd=2)
    events = [first, same, old]
    count(harness, *events)
    roll_up_hours(harness.resources.store)
    steps: tuple[tuple[int, dict[str, Any]], ...] = (
        (0, {"model": "z", "response_time_ms": 86_400_000}),
        (1, {"success": True, "cost_usd": 3, "provider": None}),
        (2, {"model": None, "provider": "b", "cost_usd": None, "response_time_ms": None}),
        (0, {"model": "a", "success": False, "response_time_ms": 11}),
    )
    for place, fields in steps:
        events[place] = corrected(harness, events[place], **fields)
        roll_up_hours(harness.resources.store)
        assert rolled_up(database) == expected(ledger(database), hour_of)
        check_corrected(harness, events)


def test_history_keeps_both(harness: IngestHarness, database: str) -> None:
    event = use(harness, cost_usd="0.5", input_tokens=3)
    count(harness, event)
    before = run(database, LEDGER, event["event_id"])[0][3]
    first = correct_one(harness, event, reason="billed twice", cost_usd="0.250", input_tokens=3)
    assert [(it.field, it.old, it.new) for it in first.changes] == [("cost_usd", Decimal("0.5"), Decimal("0.25"))]
    assert correct_one(harness, event, cost_usd=0.25).changes == []
    correct_one(harness, event, cost_usd=None)
    owner = run(database, "SELECT current_user::text")[0][0]
    assert run(database, HISTORY, event["event_id"]) == [
        ({"cost_usd": {"old": 0.5, "new": 0.25}}, "billed twice", owner),
        ({"cost_usd": {"old": 0.25, "new": None}, "cost_source": {"old": "caller", "new": "unknown"}}, None, owner),
    ]
    assert run(database, LEDGER, event["event_id"]) == [(None, "unknown", 3, before)]
    run(
        database,
        "UPDATE public.usage_corrections SET occurred_at = now() - interval '200 days' WHERE reason IS NOT NULL",
    )
    settings = harness.resources.settings
    assert manage_partitions(harness.resources.store, settings).deleted_corrections == 1
    assert len(run(database, HISTORY, event["event_id"])) == 1
    # Counters of a pair are not in the audit trail of what users change.
    assert run(database, "SELECT count(*) FROM public.user_agent_history") == [(0,)]


def test_rating(harness: IngestHarness, database: str) -> None:
    old, new = (use(harness, ago=ago, type="rating", rating=rating) for ago, rating in ((90, 1), (60, 3)))
    same = new | {"event_id": uuid4(), "rating": 4}
    count(harness, use(harness), old, new, same)
    rating = "SELECT user_rating, last_rating_at FROM public.user_agents"
    for event, value, now in (
        (old, 5, 4),
        (new, 2, 4),
        (same, 1, 2),
        (new, 0, 1),
        (new, "4.256", Decimal("4.26")),
    ):
        correct_one(harness, event, rating=value)
        assert run(database, rating) == [(now, new["occurred_at"])]
    # What the user has rated in the application since then is not the event's.
    run(database, "UPDATE public.user_agents SET user_rating = 5, last_rating_at = now()")
    correct_one(harness, new, rating=1)
    assert run(database, "SELECT user_rating, quality_score FROM public.user_agents")[0][0] == 5
    for fields in ({"rating": None}, {"rating": 6}):
        with pytest.raises(EventRefusedError, match="rating: "):
            correct_one(harness, new, **fields)
    with pytest.raises(ArgumentError, match="messages: of a rating only"):
        correct_one(harness, new, rating=1, messages=1)


def test_duplicates_and_repairs_change_nothing(harness: IngestHarness) -> None:
    event = use(harness, cost_usd=1, conversation_id=uuid4())
    keyed = {**use(harness, cost_usd=2), "event_id": "order 17"}
    count(harness, event, keyed)
    store, settings = harness.resources.store, harness.resources.settings
    events = [corrected(harness, event, cost_usd=3, conversation_id=None), corrected(harness, keyed, cost_usd=4)]
    harness.publish(event, keyed, counted=False)
    assert harness.flush() == Intake(2, 0, 2, 0)
    assert reconcile(store, settings, repair=True).differences == []
    check_corrected(harness, events)
    assert run(settings.database_url, HISTORY, identity_of("order 17"))


def test_impossible_counters(harness: IngestHarness, database: str) -> None:
    event = use(harness, messages=5)
    count(harness, event)
    run(database, "UPDATE public.user_agents SET message_count = 9223372036854775807")
    with pytest.raises(EventRefusedError, match="message_count: this pair's would exceed 9223372036854775807"):
        correct_one(harness, event, messages=6)
    run(database, "UPDATE public.user_agents SET message_count = 1")
    with pytest.raises(ObstacleError, match=r"message_count: .* reconcile --repair"):
        correct_one(harness, event, messages=0)
    run(database, "DELETE FROM public.usage_daily")
    with pytest.raises(ObstacleError, match=r"lack this event; .* reconcile --repair"):
        correct_one(harness, event, messages=0)
    assert run(database, "SELECT messages FROM public.usage_events") == [(5,)]
    assert run(database, HISTORY, event["event_id"]) == []
