"""Events whose pair, account, agent or day was deleted, and events of erased users."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.erasure import FORGET_KEY
from tests.integration.corrections import HISTORY, USES, check_corrected, correct_one, corrected, count, use
from tests.integration.database import run
from tests.integration.hours import expected, hour_of, ledger, rolled_up
from tests.integration.retired import soft_delete
from usage_worker.errors import ArgumentError, ForgetKeyError, ObstacleError
from usage_worker.events.tombstones import ForgetKey
from usage_worker.maintenance.hours import roll_up_hours
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.store.forgotten import add_tombstones

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

RETIRED = "SELECT usage_count, message_count, total_cost_usd FROM public.usage_retired_daily ORDER BY user_id"


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
    assert run(database, RETIRED) == [(1, 7, 8)]
    assert run(database, USES, harness.users[0]) == [(1, 0, None)]
    check_corrected(harness, [after])


def deleted_in_open_transaction(harness: IngestHarness, database: str, event: dict[str, Any]) -> None:
    """Delete a pair in a transaction that began before the event was counted."""
    with psycopg.connect(database) as client:
        client.execute("SELECT now()")
        count(harness, event)
        client.execute("DELETE FROM public.user_agents")


def deleted_long_ago(harness: IngestHarness, database: str, event: dict[str, Any]) -> None:
    """Delete a pair; the partition of the audit trail that has this was dropped since then."""
    count(harness, event)
    run(database, "DELETE FROM public.user_agents")
    run(database, "DELETE FROM public.user_agent_history")


@pytest.mark.parametrize("delete", [deleted_in_open_transaction, deleted_long_ago])
def test_nobody_knows_which_row_had_the_event(
    harness: IngestHarness, database: str, delete: Callable[[IngestHarness, str, dict[str, Any]], None]
) -> None:
    """The pair was used again on the same day, so that its new row has totals of that day, too."""
    before, after = use(harness, cost_usd=1), use(harness, ago=30, cost_usd=2)
    delete(harness, database, before)
    count(harness, after)
    for event in (before, after):
        with pytest.raises(ObstacleError, match=r"was deleted and used again on .*; nobody can tell"):
            correct_one(harness, event, cost_usd=4)
    assert run(database, RETIRED) == [(1, 1, 1)]
    check_corrected(harness, [after])


@pytest.mark.parametrize("statement", ["DELETE FROM auth.users", "DELETE FROM public.agents"])
def test_account_or_agent_is_deleted(harness: IngestHarness, database: str, statement: str) -> None:
    event = use(harness, cost_usd=1, conversation_id=uuid4(), model="a")
    count(harness, event)
    run(database, statement)
    correct_one(harness, event, cost_usd=2, messages=3, conversation_id=uuid4(), model="b")
    assert run(database, RETIRED) == [(1, 3, 2)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []
    roll_up_hours(harness.resources.store)
    assert rolled_up(database) == expected(ledger(database), hour_of)


def test_day_is_dropped(harness: IngestHarness, database: str) -> None:
    """The history of an event goes with its day, and `--at` does not bring it back."""
    event = use(harness, ago=34 * 86_400)
    twin = event | {"occurred_at": event["occurred_at"] + timedelta(days=20)}
    count(harness, event)
    correct_one(harness, event, messages=2)
    harness.publish(twin, counted=False)
    assert harness.flush().applied == 1
    settings = harness.resources.settings.model_copy(update={"retention_days": 30, "accept_days": 29})
    assert manage_partitions(harness.resources.store, settings).deleted_corrections == 1
    assert run(database, HISTORY, event["event_id"]) == []
    correct_one(harness, twin, messages=5)
    assert run(database, "SELECT message_count FROM public.user_agents") == [(7,)]
    with pytest.raises(ArgumentError, match=r"the ledger has it at .*; choose one with --at"):
        correct_one(harness, twin, at=event["occurred_at"], messages=3)
    assert reconcile(harness.resources.store, settings).differences == []


def test_erased_user_is_not_corrected(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """As after the restore of a backup that is older than the erasure."""
    event, other = use(harness), use(harness, user=1)
    count(harness, event, other)
    add_tombstones(harness.resources.store, [ForgetKey(FORGET_KEY).tombstone(event["user_id"])])
    with pytest.raises(ForgetKeyError, match="USAGE_FORGET_KEY, which is not set here"):
        correct_one(harness, other, messages=2)
    harness.resources = make_resources(DATABASE_URL=database, forget_key=FORGET_KEY)
    with pytest.raises(ArgumentError, match="its user was erased; `usage-worker forget --again` erases it, too"):
        correct_one(harness, event, messages=2)
    assert run(database, "SELECT count(*) FROM public.usage_corrections") == [(0,)]
    check_corrected(harness, [event, corrected(harness, other, messages=2)])
