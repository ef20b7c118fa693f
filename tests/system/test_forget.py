"""An erasure killed, doubled, undone by a restore, or met by events: nothing of the user remains, others stay."""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery

from tests.access.sample import AGENT, OWNER, STRANGER, add_rows
from tests.documents import blocks, page_text
from tests.erasure import FORGET_KEY, keys_naming, naming
from tests.helpers import eventually
from tests.integration.commands import NOW, PROGRAM, Cli
from tests.integration.database import run
from tests.integration.erasures import forget
from tests.integration.service import serving
from tests.integration.shell import Shell
from usage_worker.http.receiver import Receiver
from usage_worker.local.supervisor import Supervisor
from usage_worker.maintenance.dead_letters import RepairEdits, dead_letters_by_id, replay
from usage_worker.publisher import UsagePublisher
from usage_worker.service.broker import broker_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from tests.servers import Postgres
    from usage_worker.service.resources import Resources

WORDS = "what the owner wrote"
WRITE = """
    UPDATE public.user_agents SET custom_name = %(w)s, custom_system_prompt = %(w)s, folder = %(w)s,
        tags = ARRAY[%(w)s], notes = %(w)s, quick_notes = %(w)s, metadata = words, settings = words, preferences = words
      FROM jsonb_build_object('words', %(w)s::text) AS words WHERE user_id = %(user)s
"""


def event(user: object, **fields: Any) -> dict[str, Any]:
    occurred = NOW.isoformat()
    return {"event_id": str(uuid4()), "user_id": str(user), "agent_id": str(AGENT), "occurred_at": occurred} | fields


@pytest.fixture
def owned(database: str) -> str:
    """Fill every table with rows of the owner, whose own id is `owner 42`, and a free text of the owner's."""
    with psycopg.connect(database) as connection:
        add_rows(connection)
        connection.execute("DELETE FROM public.usage_forgotten")
        connection.execute("DELETE FROM public.usage_id_namespace")
        connection.execute(WRITE.encode(), {"w": WORDS, "user": OWNER})
    run(database, "UPDATE auth.users SET email = %s WHERE id = %s", WORDS, OWNER)
    run(database, "UPDATE user_profiles SET display_name = %s WHERE id = %s", WORDS, OWNER)
    assert len(naming(database, str(OWNER))) > 12
    return database


def checked(cli: Cli) -> str:
    """Return the state of the check of erased users."""
    state: str = json.loads(cli.run("status", "--json").stdout)["checks"]["forgotten"]
    return state


def started(cli: Cli, user: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PROGRAM, "forget", str(user), "--yes"],
        cwd=cli.folder,
        env=cli.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_late_events_of_every_entry_point_leave_no_trace(
    forgetter: Cli, harness: IngestHarness, owned: str, make_resources: Callable[..., Resources], tmp_path: Path
) -> None:
    resources = make_resources(forget_key=FORGET_KEY, unknown="create", DATABASE_URL=owned)
    harness.xadd(json.dumps([event(OWNER, agent_id=str(uuid4()))]), n="1")
    harness.flush()  # a dead letter, which an export keeps
    letters = forgetter.run("dead-letters", "export").stdout
    assert str(OWNER) in letters
    forget(forgetter, str(OWNER), "--yes")
    assert naming(owned, str(OWNER), OWNER.hex, WORDS, "owner 42") == set()

    url = harness.resources.settings.redis_url
    with UsagePublisher(url, linger=0) as publisher:
        assert publisher.add(event(OWNER))
        assert publisher.flush()
    harness.xadd(json.dumps([event(OWNER), event(harness.users[0])]), n="2")
    harness.xadd(json.dumps([event(OWNER, tokens="none of a number")]), n="1")
    harness.xadd(f"no JSON of {OWNER}", n="1")
    late = event(OWNER)
    harness.xadd(
        json.dumps({name: [late[name], late[name]] for name in late} | {"event_id": [uuid4().hex] * 2}), "2", n="2"
    )
    receiver = Receiver(resources.settings)
    assert receiver.take(lambda: [event(OWNER), event(OWNER)], lambda fields: fields).accepted == 2
    receiver.close()
    (tmp_path / "old.ndjson").write_text(json.dumps(event(OWNER)) + "\n")
    assert forgetter.run("publish", "--backfill", str(tmp_path / "old.ndjson")).returncode == 0
    intakes = [resources.flusher.flush(shard, 60).intake for shard in range(2)]
    assert sum(it.applied for it in intakes) == 1
    assert naming(owned, str(OWNER), OWNER.hex, WORDS) == set()
    assert keys_naming(harness.redis, str(OWNER), OWNER.hex, WORDS) == []
    assert run(owned, "SELECT count(*) FROM usage_forgotten") == [(1,)]


def test_dump_of_before_is_erased_again(
    *,
    forgetter: Cli,
    harness: IngestHarness,
    make_resources: Callable[..., Resources],
    owned: str,
    empty_database: str,
    postgres: Postgres,
    tmp_path: Path,
) -> None:
    """By the commands of docs/backup.md and docs/forget.md, as they are written."""
    shell = Shell(postgres.bin_dir, tmp_path, **forgetter.env | {"DATABASE_URL": owned, "RESTORED_URL": empty_database})
    dump, restore = blocks("backup.md", "sh", "Whole database")[0].splitlines()
    shell.execute(dump)
    forget(forgetter, str(OWNER), "--yes")
    shell.execute(restore)
    assert len(naming(empty_database, str(OWNER))) > 12
    forgetter.env["DATABASE_URL"] = empty_database
    assert checked(forgetter) == "fail"
    # A worker that starts too early counts the user, who is there again.
    early = make_resources(forget_key=FORGET_KEY, DATABASE_URL=empty_database)
    harness.publish(event(OWNER), event(STRANGER), counted=False)
    assert sum(early.flusher.flush(shard, 60).intake.applied for shard in range(2)) == 2

    [again] = re.findall("^    (usage-worker forget --again .*)$", page_text("forget.md"), re.MULTILINE)
    assert "1 user erased" in shell.execute(f"export DATABASE_URL=$RESTORED_URL\n{again}")
    assert naming(empty_database, str(OWNER), OWNER.hex, WORDS, "owner 42") == set()
    assert checked(forgetter) == "ok"
    assert run(empty_database, "SELECT count(*) FROM usage_events WHERE user_id = %s", STRANGER) == [(1,)]
    harness.publish(event(OWNER), counted=False)
    assert sum(early.flusher.flush(shard, 60).intake.quarantined for shard in range(2)) == 1
    harness.redis.delete("usage:forgotten")
    assert checked(forgetter) == "fail"
    assert forget(forgetter, "--again", "--yes")["users"] == 0
    assert checked(forgetter) == "ok"


def test_dead_letters_are_replayed_around_an_erasure(
    forgetter: Cli, harness: IngestHarness, database: str, tmp_path: Path
) -> None:
    """Before it, and counted after it; by a replay that has read them before it; and after it, from an export, too."""
    gone, other = harness.users[:2]
    agent, repaired = str(harness.agents[0]), {"tokens": "7"}
    for good in ([], [event(other, agent_id=agent)], []):
        # So many that they share a letter.
        bad = [event(user, agent_id=agent, tokens="many") for user in (gone, other) for _ in range(51)]
        harness.xadd(json.dumps([*good, *bad]), n=str(len(good) + len(bad)))
        for it in [*good, *(it | repaired for it in bad)]:
            if it["user_id"] == str(other):
                harness.oracle.add(it)
    assert harness.flush().quarantined == 306
    before, during, after = map(json.loads, forgetter.run("dead-letters", "export").stdout.splitlines())

    replay_repaired = ("dead-letters", "replay", "--set", "tokens=7", "--json")
    assert forgetter.run(*replay_repaired, str(before["id"])).returncode == 0
    read = list(dead_letters_by_id(harness.resources.store, [during["id"]]))
    assert forget(forgetter, str(gone), "--yes")["rows"]["usage_dead_letters.payload"] == 3
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        assert (
            replay(
                harness.resources.store, publisher, read, RepairEdits(repaired), harness.resources.settings, print
            ).sent
            == 102
        )
    left = forgetter.run(*replay_repaired, "--all")
    assert json.loads(left.stdout)["sent"] == 51, left
    by_hand = [json.dumps(it | repaired) + "\n" for it in json.loads(after["payload"])]
    (tmp_path / "exported.ndjson").write_text("".join(by_hand))
    assert forgetter.run("publish", str(tmp_path / "exported.ndjson")).returncode == 0

    done = Cli(forgetter.folder, **forgetter.env).drained()
    assert (done["applied"], done["duplicate"], done["left"]) == (153, 51, 0)
    assert naming(database, str(gone), gone.hex) == set()
    assert keys_naming(harness.redis, str(gone), gone.hex) == []
    harness.check()
    assert forgetter.run("run", "reconcile").returncode == 0


def test_erasure_killed_in_the_middle_is_finished_by_another(forgetter: Cli, owned: str) -> None:
    for _ in range(4):
        process = started(forgetter, OWNER)
        eventually(lambda: run(owned, "SELECT hash FROM usage_forgotten"), 60)
        try:
            process.wait(random.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    forget(forgetter, str(OWNER), "--yes")
    assert naming(owned, str(OWNER), OWNER.hex, WORDS, "owner 42") == set()


def test_erasures_while_workers_count_at_full_speed(
    forgetter: Cli, harness: IngestHarness, database: str, tmp_path: Path
) -> None:
    """Two at once, while events of the user and of others come by a publisher, as Celery messages and over HTTP."""
    gone, url = harness.users[0], harness.resources.settings.redis_url
    is_over, store = threading.Event(), harness.resources.store
    app = Celery()
    app.conf.update(broker_settings(url))
    key = {"USAGE_FORGET_KEY": FORGET_KEY}
    with (
        Supervisor(database, url, workers=2, flower_port=None, log_dir=tmp_path, variables=key) as celery,
        serving(tmp_path, url, **key) as service,
        UsagePublisher(url, linger=0) as publisher,
        ThreadPoolExecutor(3) as pool,
    ):
        celery.wait_ready(180)
        ways: list[Callable[[list[dict[str, Any]]], bool]] = [
            lambda batch: all(map(publisher.add, batch)) and publisher.flush(),
            lambda batch: all(app.send_task("usage.track", kwargs=it).id for it in batch),
            lambda batch: service.post(batch).status == 202,
        ]
        senders = [pool.submit(sent_until, is_over, way, harness) for way in ways]
        try:
            eventually(lambda: store.intake_totals().applied > 300, 60)
            with started(forgetter, gone) as one, started(forgetter, gone) as other:
                assert [it.wait() for it in (one, other)] == [0, 0]
            before = store.intake_totals().applied
            eventually(lambda: store.intake_totals().applied > before + 100, 60)
        finally:
            is_over.set()
        sent = [it for sender in senders for it in sender.result(60)]
        eventually(lambda: store.intake_totals().accepted >= len(sent), 60)
    assert store.intake_totals().accepted == len(sent)
    for it in sent:
        if it["user_id"] != str(gone):
            harness.oracle.add(it)
    assert naming(database, str(gone), gone.hex) == set()
    assert keys_naming(harness.redis, str(gone), gone.hex) == []
    harness.check()
    assert forgetter.run("run", "reconcile").returncode == 0


def sent_until(
    is_over: threading.Event, send: Callable[[list[dict[str, Any]]], bool], harness: IngestHarness
) -> list[dict[str, Any]]:
    """Send batches, a tenth of which is of the first user, and return their events."""
    sent: list[dict[str, Any]] = []
    while not is_over.is_set():
        users = [harness.users[0], *random.sample(harness.users[1:], 9)]
        batch = [event(user, agent_id=str(random.choice(harness.agents))) for user in users]
        assert send(batch)
        sent += batch
    return sent
