"""`status` names the most common reason of quarantined events, and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.integration.database import run
from usage_worker.monitoring.quarantine import quarantine

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.store.connection import Store

INSERT = """
    INSERT INTO usage_dead_letters (entry_key, position, stream, entry_id, events, reason, payload)
    SELECT gen_random_uuid(), 0, 'usage:events:{0}', '1-0', %s, %s, '{}' FROM generate_series(1, %s)
"""


def test_unknown_users_and_agents_are_named_with_remedy(harness: IngestHarness, database: str) -> None:
    store, user, nobody = harness.resources.store, harness.users[0], uuid4()
    assert quarantine(store) is None
    harness.publish({"user_id": user, "agent_id": nobody}, counted=False)
    harness.flush()
    found = quarantine(store)
    assert found
    assert (found.reason, found.events, found.total) == ("agent_id: no such agent", 1, 1)
    assert found.remedy.startswith("create the agent, or set USAGE_UNKNOWN=create")
    harness.publish(*({"user_id": nobody, "agent_id": harness.agents[0]} for _ in range(4)), counted=False)
    harness.flush()
    found = quarantine(store)
    assert found
    assert (found.reason, found.events, found.total) == ("user_id: no such user", 4, 5)
    assert found.remedy.startswith("create the user, or set USAGE_UNKNOWN=create")
    assert found.remedy.endswith("`usage-worker dead-letters replay --all`")
    run(database, "UPDATE usage_dead_letters SET replayed_at = now()")
    assert quarantine(store) is None


def test_foreign_reason_is_escaped_and_truncated(cli: Cli, database: str) -> None:
    run(database, INSERT, 1, "\x1b[31m[red]forged[/]\n\tworkers\tall well " + "x" * 200_000, 3)
    run(database, INSERT, 1, "rare", 2)
    machine = json.loads(cli.run("status", "--json").stdout)["quarantine"]
    users = dict(line.split("\t") for line in cli.run("status").stdout.splitlines())["dead letters"]
    assert (machine["events"], machine["total"]) == (3, 5)
    assert len(machine["reason"]) <= 200
    assert machine["reason"].startswith(r"\x1b[31m[red]forged[/]\n\tworkers\tall well xxx")
    assert users.startswith(f"3 of the newest 5 events: {machine['reason']}; ")
    assert users.endswith("repair with the options of `usage-worker dead-letters replay`")


def test_reason_of_most_events_among_newest_dead_letters(store: Store, database: str) -> None:
    run(database, INSERT, 1, "old", 5_000)
    run(database, INSERT, 1, "recent", 999)
    run(database, INSERT, 2_000, "whole entry", 1)
    found = quarantine(store)
    assert found
    assert (found.reason, found.events, found.total) == ("whole entry", 2_000, 2_999)
