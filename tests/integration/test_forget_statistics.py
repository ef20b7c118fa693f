"""Values of an erased user in the planner's statistics, which everybody who may read a table can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.erasure import FORGET_KEY
from tests.integration.commands import NOW
from tests.integration.database import run
from tests.integration.erasures import event, forget
from usage_worker.events.external_ids import external_ids
from usage_worker.events.tombstones import ForgetKey
from usage_worker.maintenance.forget import Erasure
from usage_worker.maintenance.person import Person
from usage_worker.settings import DEFAULT_ID_NAMESPACE

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

WORDS = "what mary wrote"
NAMING = """
    SELECT DISTINCT tablename::text FROM pg_stats
     WHERE concat(most_common_vals, histogram_bounds, most_common_elems) LIKE ANY (%s)
"""
PARTITION = f"usage_events_{NOW:%Y%m%d}"


def in_statistics(url: str, *texts: str) -> set[str]:
    return {name for (name,) in run(url, NAMING, [f"%{text}%" for text in texts])}


@pytest.fixture
def analyzed(harness: IngestHarness, database: str) -> str:
    """Let two users count, and analyse everything; return the first one, who has written something."""
    gone, other = map(str, harness.users[:2])
    harness.publish(*(event(user, str(agent)) for user in (gone, other) for agent in harness.agents))
    harness.flush()
    run(database, "UPDATE user_agents SET custom_name = %s, folder = %s WHERE user_id = %s", WORDS, WORDS, gone)
    run(database, "UPDATE user_agents SET custom_name = 'mine' WHERE user_id = %s", other)
    run(database, "INSERT INTO usage_external_ids VALUES ('user', %s, %s), ('user', %s, 'x')", gone, WORDS, other)
    run(database, "REFRESH MATERIALIZED VIEW user_agent_analytics")
    run(database, "ANALYZE")
    named = {"users", "user_agents", "user_agent_analytics", "user_agent_history", "usage_events", PARTITION}
    assert in_statistics(database, gone, WORDS) >= named | {"usage_daily", "usage_external_ids"}
    return gone


def test_statistics_are_renewed(forgetter: Cli, database: str, analyzed: str) -> None:
    before = in_statistics(database, analyzed, WORDS)
    forget(forgetter, analyzed, "--dry-run")
    assert in_statistics(database, analyzed, WORDS) == before
    assert forget(forgetter, analyzed, "--yes")["notes"] == []
    assert in_statistics(database, analyzed, WORDS) == set()


def test_statistics_of_rows_that_the_application_deleted(forgetter: Cli, database: str, analyzed: str) -> None:
    run(database, "DELETE FROM auth.users WHERE id = %s", analyzed)
    assert "user_agents" in in_statistics(database, analyzed)
    forget(forgetter, analyzed, "--yes")
    assert in_statistics(database, analyzed, WORDS) == set()


@pytest.mark.parametrize("arguments", [(), ("--again",)], ids=["user", "again"])
def test_statistics_of_a_held_table_are_renewed_later(
    *,
    forgetter: Cli,
    harness: IngestHarness,
    database: str,
    analyzed: str,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage_worker.maintenance.forget_statistics.WAIT_SECONDS", 0)
    resources, ids = harness.resources, external_ids(DEFAULT_ID_NAMESPACE)
    erasure = Erasure(resources.store, resources.stream.connection, ForgetKey(FORGET_KEY), ids)
    with psycopg.connect(database) as holder:
        # As VACUUM does, which lets others read and write.
        holder.execute("LOCK TABLE user_agents IN SHARE UPDATE EXCLUSIVE MODE")
        notes = erasure.erase([Person(harness.users[0])]).notes
    said = "statistics may still have values of the user: user_agents; run `usage-worker forget --again --yes`"
    assert notes == [said]
    assert in_statistics(database, analyzed, WORDS) == {"user_agents"}
    assert forget(forgetter, *(arguments or (analyzed,)), "--yes")["notes"] == []
    assert in_statistics(database, analyzed, WORDS) == set()
