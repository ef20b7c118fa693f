"""An event that is corrected counts in every total as if it had been published so."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.integration.corrections import HISTORY, check_corrected, correct_one, count, use, with_fields
from tests.integration.database import run
from tests.integration.hours import hour_of
from tests.integration.retired import soft_delete
from usage_worker.errors import ArgumentError, EventRefusedError, ObstacleError, RoleError
from usage_worker.events.event import identity_of
from usage_worker.maintenance import manage_partitions, purge, reconcile, roll_up_hours
from usage_worker.store import Intake, Store

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

LIST = f"genai-prices {version('genai-prices')}"
LEDGER = "SELECT cost_usd, cost_source, tokens, recorded_at FROM public.usage_events WHERE event_id = %s"
SPEED = "SELECT usage_count, conversation_count, last_conversation_id FROM public.user_agents WHERE user_id = %s"


def corrected(harness: IngestHarness, event: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Correct an event; return it as it is then."""
    assert correct_one(harness, event, **fields).changes
    return with_fields(event, fields)


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


def test_conversations(harness: IngestHarness, database: str) -> None:
    one, two, three = sorted(uuid4() for _ in range(3))
    yesterday = 86_400
    events = [
        use(harness, ago=yesterday, conversation_id=one),
        use(harness, ago=50, conversation_id=one),
        use(harness, ago=50, conversation_id=two),
        use(harness, ago=10),
    ]
    count(harness, *events)
    steps: list[tuple[int, UUID | None]] = [
        # Another use has it; at equal times; the newest; nowhere any more; again; the last of all.
        *((1, three), (2, None), (1, None), (3, two), (3, None), (0, two), (1, one), (0, None), (1, None), (2, three)),
    ]
    for place, conversation in steps:
        events[place] = corrected(harness, events[place], conversation_id=conversation)
        check_corrected(harness, events)
    late = use(harness, ago=5, conversation_id=one)
    count(harness, late)
    check_corrected(harness, [*events, late])
    assert len(run(database, "SELECT * FROM public.user_agent_conversations")) == 2


def test_conversation_of_uses_that_the_ledger_does_not_have(harness: IngestHarness, database: str) -> None:
    event = use(harness, conversation_id=uuid4())
    count(harness, event)
    run(
        database,
        "INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count, message_count, success_count)"
        " SELECT user_id, agent_id, '1970-01-01', 1, 1, 1 FROM public.user_agents;"
        "UPDATE public.user_agents SET usage_count = 2, message_count = 2, success_count = 2",
    )
    done = correct_one(harness, event, conversation_id=None, messages=5)
    assert done.kept_conversation == "older uses"
    assert run(database, SPEED, harness.users[0]) == [(2, 1, None)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_rating(harness: IngestHarness, database: str) -> None:
    old, new = (use(harness, ago=ago, type="rating", rating=rating) for ago, rating in ((90, 1), (60, 3)))
    same = new | {"event_id": uuid4(), "rating": 4}
    count(harness, use(harness), old, new, same)
    rating = "SELECT user_rating, last_rating_at FROM public.user_agents"
    for event, value, expected in (
        (old, 5, 4),
        (new, 2, 4),
        (same, 1, 2),
        (new, 0, 1),
        (new, "4.256", Decimal("4.26")),
    ):
        correct_one(harness, event, rating=value)
        assert run(database, rating) == [(expected, new["occurred_at"])]
    # What the user has rated in the application since then is not the event's.
    run(database, "UPDATE public.user_agents SET user_rating = 5, last_rating_at = now()")
    correct_one(harness, new, rating=1)
    assert run(database, "SELECT user_rating, quality_score FROM public.user_agents")[0][0] == 5
    for fields in ({"rating": None}, {"rating": 6}):
        with pytest.raises(EventRefusedError, match="rating: "):
            correct_one(harness, new, **fields)
    with pytest.raises(ArgumentError, match="messages: of a rating only"):
        correct_one(harness, new, rating=1, messages=1)


@pytest.mark.parametrize("fields", [{}, {"model": "gpt-4o", "provider": "openai"}])
def test_prices(harness: IngestHarness, database: str, fields: dict[str, Any]) -> None:
    event, given = use(harness, input_tokens=1_000, **fields), use(harness, input_tokens=1_000, cost_usd=1, **fields)
    count(harness, event, given)
    corrected(harness, event, output_tokens=10)
    corrected(harness, given, output_tokens=10)
    priced = (Decimal("0.0026"), LIST) if fields else (None, "unknown")
    assert run(database, LEDGER, event["event_id"])[0][:3] == (*priced, 1_010)
    assert run(database, LEDGER, given["event_id"])[0][:3] == (1, "caller", 1_010)
    correct_one(harness, given, cost_usd=None)
    assert run(database, LEDGER, given["event_id"])[0][:2] == priced
    correct_one(harness, event, model=None)
    assert run(database, LEDGER, event["event_id"])[0][:2] == (None, "unknown")
    total = "SELECT coalesce(sum(total_cost_usd), 0) FROM public.user_agents"
    assert run(database, total) == [(priced[0] or 0,)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_purged_pair_used_again(harness: IngestHarness, database: str) -> None:
    """Events of the deleted row change its retired totals, those of the new row the counters."""
    store, conversation = harness.resources.store, uuid4()
    before = use(harness, cost_usd=1, conversation_id=conversation)
    count(harness, before)
    soft_delete(database, harness.users[0], harness.agents[0])
    corrected(harness, before, messages=7)
    assert run(database, "SELECT message_count FROM public.user_agents") == [(7,)]
    assert purge(store, timedelta(days=30)).purged == 1
    corrected(harness, before, cost_usd=2)
    after = use(harness, ago=30, cost_usd=4, conversation_id=conversation)
    count(harness, after)
    corrected(harness, before, cost_usd=8, conversation_id=uuid4())
    after = corrected(harness, after, cost_usd=16, conversation_id=None)
    retired = "SELECT usage_count, message_count, total_cost_usd FROM public.usage_retired_daily"
    assert run(database, retired) == [(1, 7, 8)]
    assert run(database, SPEED, harness.users[0]) == [(1, 0, None)]
    check_corrected(harness, [after])


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


def test_command(harness: IngestHarness, cli: Cli, database: str) -> None:
    event = {**use(harness, cost_usd="0.5"), "event_id": "order 17"}
    count(harness, event)
    command = ("correct", "order 17", "--set", "cost_usd=0.25", "--set", "model=null")
    planned = cli.run(*command, "--dry-run")
    assert planned.stdout.splitlines()[0] == "cost_usd\t0.5\t0.25"
    assert "would be corrected; nothing was changed" in planned.stdout
    code, asked = cli.on_terminal("n\n", *command)
    assert (code, "1 field of event" in asked, "nothing was changed" in asked) == (1, True, True)
    assert run(database, "SELECT count(*) FROM public.usage_corrections") == [(0,)]
    done = json.loads(cli.run(*command, "--yes", "--reason", "refund", "--json").stdout)
    assert done["corrected"]
    assert done["changes"] == {"cost_usd": {"old": "0.5", "new": "0.25"}}
    assert done["event_id"] == str(identity_of("order 17"))
    again = cli.run(*command, "--yes")
    assert (again.returncode, "nothing to correct" in again.stdout) == (0, True)
    check_corrected(harness, [event | {"cost_usd": "0.25"}])


def test_command_errors(harness: IngestHarness, cli: Cli, database: str) -> None:
    event = use(harness)
    twin = event | {"occurred_at": event["occurred_at"] - timedelta(days=1)}
    count(harness, use(harness, user=1), event)
    harness.publish(twin, counted=False)
    harness.flush()
    name = event["event_id"]
    later = event["occurred_at"].isoformat()
    lines = cli.error_lines(
        f"correct {name}",
        f"correct {name} --set user_id={uuid4()}",
        f"correct {name} --set colour=red",
        f"correct {name} --set messages",
        f"correct {uuid4()} --set messages=2",
        f"correct {name} --set messages=2",
        f"correct {name} --set messages=-1 --at {later} --yes",
        f"correct {name} --set rating=1 --at {later} --yes",
        f"correct {name} --set messages=2 --at {later}",
    )
    for line, words in zip(
        lines,
        (
            "at least one --set",
            "user_id: cannot be corrected",
            "there is no field colour",
            "write FIELD=VALUE",
            "the ledger no longer has its day (USAGE_RETENTION_DAYS=",
            f"the ledger has it at {twin['occurred_at'].isoformat()}, {later}; choose one with --at",
            "messages: Input should be greater than or equal to 0",
            "rating: goes with type rating",
            "run it again with --yes",
        ),
        strict=True,
    ):
        assert words in line, line
    assert cli.run("correct", str(name), "--set", "messages=2", "--at", later, "--yes").returncode == 0
    assert run(database, "SELECT messages FROM public.usage_events WHERE event_id = %s ORDER BY occurred_at", name) == [
        (1,),
        (2,),
    ]


def test_only_the_owner_corrects(harness: IngestHarness, ingest_url: str) -> None:
    event = use(harness)
    count(harness, event)
    with Store(ingest_url) as store:
        harness.resources.store = store
        with pytest.raises(RoleError, match="does not own the tables"):
            correct_one(harness, event, messages=2)
