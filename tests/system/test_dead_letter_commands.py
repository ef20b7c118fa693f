"""Dead letters in an operator's hands: found, grouped by reason, replayed by reason, and discarded for good."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.hostile import HOSTILE_TEXT
from tests.integration.commands import Cli, events
from tests.integration.database import run
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake
from usage_worker.wording import moment

if TYPE_CHECKING:
    from pathlib import Path

USER = str(uuid4())


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    """Return the commands where seven events are quarantined, for two reasons."""
    made = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", USER)
    lines = events(4) + events(3, user_id=USER)
    assert made.run("publish", "-", stdin=lines.encode()).returncode == 0
    assert made.drained()["quarantined"] == 7
    return made


def test_dead_letters_are_found_newest_first_and_by_reason(cli: Cli, database: str) -> None:
    done = cli.run("dead-letters", "list", "--limit", "2")
    newest = [number for (number,) in run(database, "SELECT id FROM usage_dead_letters ORDER BY id DESC")]
    assert [int(line.split("\t")[0]) for line in done.stdout.splitlines()] == newest[:2]
    assert done.stderr == "7 dead letters with 7 events; 5 are not listed (--limit)\n"
    whole = json.loads(cli.run("dead-letters", "list", "--limit", "2", "--json").stdout)
    kept = run(database, "SELECT id, payload FROM usage_dead_letters ORDER BY id DESC LIMIT 2")
    assert [(it["id"], it["payload"]) for it in whole] == kept
    groups = json.loads(cli.run("dead-letters", "list", "--by-reason", "--json").stdout)
    assert [(it["reason"], it["events"], it["dead_letters"]) for it in groups] == [
        ("user_id: no such user", 4, 4),
        ("agent_id: no such agent", 3, 3),
    ]
    for options, number in (
        (("--reason", "such agent"), 3),
        (("--containing", USER), 3),
        (("--reason", "such user", "--containing", USER), 0),
        (("--since", "2020-01-01"), 7),
        (("--until", "2020-01-01"), 0),
    ):
        assert len(json.loads(cli.run("dead-letters", "list", "--json", *options).stdout)) == number, options
        assert len(cli.run("dead-letters", "export", *options).stdout.splitlines()) == number, options
    for filtered in ("--reason user", "--containing x", "--since 2020-01-01", "--until 2020-01-01"):
        # One of the two would be ignored.
        refused = cli.error_line(f"dead-letters export {newest[0]} {filtered}")
        assert refused.endswith("give numbers of dead letters or a filter such as --reason, not both")


def test_times_are_read_as_they_are_printed(cli: Cli) -> None:
    (oldest, *_) = sorted(
        json.loads(line)["created_at"] for line in cli.run("dead-letters", "export").stdout.splitlines()
    )
    printed = [line.split("\t")[1] for line in cli.run("dead-letters", "list").stdout.splitlines()]
    utc = datetime.fromisoformat(oldest)
    forms = (oldest, min(printed), f"{utc:%Y-%m-%dT%H:%M:%SZ}", moment(utc), f"{utc:%Y-%m-%d %H:%M:%S}")
    local = utc.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    for time in (*forms, local):
        assert len(cli.run("dead-letters", "list", "--since", time).stdout.splitlines()) == 7, time
        assert len(cli.run("dead-letters", "list", "--until", time).stdout.splitlines()) == 0, time
    done = cli.run("dead-letters", "list", "--since", "yesterday")
    assert done.returncode == 2
    assert "Invalid value for '--since': 'yesterday' is not a time by ISO 8601, such as " in done.stderr
    assert "Invalid value for '--start-at'" in cli.run("publish", "-", "--start-at", "yesterday").stderr
    assert cli.run("publish", "-", "--start-at", oldest).returncode == 0


def test_text_that_is_not_utf_8_is_one_line(cli: Cli) -> None:
    text = os.fsdecode(b"a\xffb")
    for command in ("list", "export", "replay", "discard --yes"):
        for option in ("--reason", "--containing"):
            line = cli.error_line(f"dead-letters {command} {option} {text}")
            assert line == "usage-worker: PostgreSQL refused a value: a text cannot be encoded as UTF-8"


def test_number_beyond_every_dead_letter_is_not_found(cli: Cli) -> None:
    for number in (2**63, 10**26):
        for command in ("show", "export", "replay", "discard --yes"):
            line = cli.error_line(f"dead-letters {command} {number}")
            assert line == f"usage-worker: an argument is wrong: there is no dead letter {number}"
        assert "Invalid value for '--limit'" in cli.run("dead-letters", "list", "--limit", str(number)).stderr


def test_discarded_dead_letters_stay_counted(cli: Cli, database: str) -> None:
    refused = cli.error_line("dead-letters discard --reason user")
    assert "4 dead letters with 4 events would be deleted for good" in refused
    assert "export" in refused
    assert "argument" not in refused
    assert "give numbers of dead letters, or --all" in cli.error_line("dead-letters discard")
    assert cli.on_terminal("n\n", "dead-letters", "discard", "--all")[0] == 1
    assert run(database, "SELECT count(*) FROM usage_dead_letters") == [(7,)]
    done = cli.run("dead-letters", "discard", "--reason", "such user", "--yes")
    assert (done.returncode, done.stdout) == (
        0,
        "4\tuser_id: no such user\n4 dead letters with 4 events deleted\n",
    )
    (left,) = {it["reason"] for it in json.loads(cli.run("dead-letters", "list", "--json").stdout)}
    assert left == "agent_id: no such agent"
    code, printed = cli.on_terminal("y\n", "dead-letters", "discard", "--all")
    assert code == 0
    assert printed.endswith("3\tagent_id: no such agent\n3 dead letters with 3 events deleted\n")
    nothing = {"dead_letters": 0, "events": 0, "reasons": {}}
    assert json.loads(cli.run("dead-letters", "discard", "--all", "--json").stdout) == nothing
    with Store(database) as store:
        assert store.intake_totals() == Intake(7, 0, 0, 7)
    assert cli.run("run", "reconcile").returncode == 0


def test_dead_letters_of_one_reason_are_replayed(cli: Cli, database: str) -> None:
    for (agent,) in run(database, "SELECT DISTINCT payload::jsonb ->> 'agent_id' FROM usage_dead_letters"):
        run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'one')", agent)
    assert cli.run("dead-letters", "replay", "--until", "2020-01-01").stdout == "0 events sent, 0 bad dead letters\n"
    done = cli.run("dead-letters", "replay", "--reason", "no such agent", "--since", "2020-01-01")
    assert (done.returncode, done.stdout) == (0, "3 events sent, 0 bad dead letters\n")
    assert cli.drained()["applied"] == 3


def test_workers_role_may_not_discard(cli: Cli, ingest_url: str) -> None:
    cli.env["DATABASE_URL"] = ingest_url
    assert "permission denied for table usage_dead_letters" in cli.error_line("dead-letters discard --all --yes")


def test_hostile_reasons_are_shown_escaped_and_cut(cli: Cli, database: str) -> None:
    run(database, "UPDATE usage_dead_letters SET reason = %s", HOSTILE_TEXT + "x" * 200_000)
    for options in ((), ("--by-reason",)):
        shown = cli.run("dead-letters", "list", *options).stdout
        assert shown.replace("\t", "").replace("\n", "").isprintable()
        assert max(map(len, shown.splitlines())) < 1_200
