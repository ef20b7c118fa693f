"""`usage-worker correct` and who may use it."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.integration.corrections import HISTORY, check_corrected, correct_one, count, use
from tests.integration.database import run
from usage_worker.errors import RoleError
from usage_worker.events.event import identity_of
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness


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
    _, printed = cli.on_terminal("y\n", *command, "--reason", "refund", "--json", errors=subprocess.DEVNULL)
    done = json.loads(printed)
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


def test_schema_without_corrections(harness: IngestHarness, cli: Cli, database: str) -> None:
    """Without the table nothing but the command stops; an upgrade after a rollback has the history again."""
    event = use(harness)
    count(harness, event)
    correct_one(harness, event, messages=2)
    history = run(database, HISTORY, event["event_id"])
    runner = Runner(database)
    runner.down("5.0.0")
    assert manage_partitions(harness.resources.store, harness.resources.settings).deleted_corrections == 0
    assert "run `usage-worker migrate up`" in cli.error_line(f"correct {event['event_id']} --set messages=3 --yes")
    runner.up()
    assert run(database, HISTORY, event["event_id"]) == history
    correct_one(harness, event, messages=3)
    check_corrected(harness, [event | {"messages": 3}])
