"""An erasure killed, doubled, undone by a restore, or met by events: nothing of the user remains, others stay."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.access.sample import AGENT, OWNER, add_rows
from tests.conftest import new_database
from tests.erasure import FORGET_KEY, keys_naming, naming
from tests.helpers import eventually
from tests.integration.commands import NOW, PROGRAM, Cli
from tests.integration.database import run
from usage_worker.http.receiver import Receiver
from usage_worker.publisher import UsagePublisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.conftest import Postgres
    from tests.integration.conftest import IngestHarness
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
def eraser(cli: Cli) -> Cli:
    cli.env["USAGE_FORGET_KEY"] = FORGET_KEY
    return cli


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


def forget(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli.run("forget", *arguments, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def started(cli: Cli, user: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PROGRAM, "forget", str(user), "--yes"],
        cwd=cli.folder,
        env=cli.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_late_events_of_every_entry_point_leave_no_trace(
    eraser: Cli, harness: IngestHarness, owned: str, make_resources: Callable[..., Resources], tmp_path: Path
) -> None:
    resources = make_resources(forget_key=FORGET_KEY, unknown="create", DATABASE_URL=owned)
    harness.xadd(json.dumps([event(OWNER, agent_id=str(uuid4()))]), n="1")
    harness.flush()  # a dead letter, which an export keeps
    letters = eraser.run("dead-letters", "export").stdout
    assert str(OWNER) in letters
    forget(eraser, str(OWNER))
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
    assert eraser.run("publish", "--backfill", str(tmp_path / "old.ndjson")).returncode == 0
    intakes = [resources.flusher.flush(shard, 60).intake for shard in range(2)]
    assert sum(it.applied for it in intakes) == 1
    assert naming(owned, str(OWNER), OWNER.hex, WORDS) == set()
    assert keys_naming(harness.redis, str(OWNER), OWNER.hex, WORDS) == []
    assert run(owned, "SELECT count(*) FROM usage_forgotten") == [(1,)]


def test_backup_of_before_is_erased_again(
    eraser: Cli, owned: str, postgres: Postgres, redis_client: redis.Redis
) -> None:
    name = owned.split("?", maxsplit=1)[0].rpartition("/")[2]
    # A copy of the files of the database, as a backup of before the erasure.
    with new_database(postgres, name) as backup:
        forget(eraser, str(OWNER))
        eraser.env["DATABASE_URL"] = restored = postgres.url(backup)
        assert naming(restored, str(OWNER))
        status = json.loads(eraser.run("status", "--json").stdout)
        assert status["checks"]["forgotten"] == "fail"
        assert forget(eraser, "--again")["users"] == 1
        assert naming(restored, str(OWNER), OWNER.hex, WORDS, "owner 42") == set()
        assert json.loads(eraser.run("status", "--json").stdout)["checks"]["forgotten"] == "ok"
        redis_client.delete("usage:forgotten")
        assert forget(eraser, "--again")["users"] == 0
        assert json.loads(eraser.run("status", "--json").stdout)["checks"]["forgotten"] == "ok"


def test_erasure_killed_in_the_middle_is_finished_by_another(eraser: Cli, owned: str) -> None:
    for _ in range(4):
        process = started(eraser, OWNER)
        eventually(lambda: run(owned, "SELECT hash FROM usage_forgotten"))
        try:
            process.wait(random.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    forget(eraser, str(OWNER))
    assert naming(owned, str(OWNER), OWNER.hex, WORDS, "owner 42") == set()


def test_two_erasures_at_once_while_others_are_counted(eraser: Cli, harness: IngestHarness, database: str) -> None:
    gone, agent = harness.users[0], harness.agents[0]
    others = harness.users[1:]
    harness.publish(*(event(gone, agent_id=str(agent)) for _ in range(50)), counted=False)
    harness.flush()
    processes = [started(eraser, gone) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        harness.publish(*(event(user, agent_id=str(agent)) for user in others))
        harness.publish(event(gone, agent_id=str(agent)), counted=False)
    for process in processes:
        assert process.wait() == 0, process.communicate()
    counting = Cli(eraser.folder, **eraser.env)
    assert counting.drained()["left"] == 0
    assert naming(database, str(gone), gone.hex) == set()
    harness.check()
    assert eraser.run("run", "reconcile").returncode == 0
