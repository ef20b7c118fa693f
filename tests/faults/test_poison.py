"""Dead letters: listed, shown, repaired, replayed, and counted once however often they are replayed."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.faults.harness import UNKNOWN_USER
from tests.integration.commands import Cli
from tests.sql import query
from usage_worker.service.resources import Resources
from usage_worker.store.intake import Intake
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.harness import Harness


@pytest.fixture
def cli(tmp_path: Path, harness: Harness) -> Cli:
    return Cli(tmp_path, DATABASE_URL=harness.database, REDIS_URL=harness.redis_url)


def one(harness: Harness, **fields: Any) -> dict[str, Any]:
    return {"user_id": str(harness.population.users[0]), "agent_id": str(harness.population.agents[0]), **fields}


def send(harness: Harness, body: object, **fields: str) -> None:
    """Send an entry without adding it to the oracle; the test checks its totals itself."""
    text = body if isinstance(body, str) else json.dumps(body)
    entry: Any = {"v": "1", "n": "1", "events": text, **fields}
    harness.redis.xadd("usage:events:{0}", entry)
    harness.drain()


def dead_letters(cli: Cli, *options: str) -> list[dict[str, Any]]:
    done = cli.run("dead-letters", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def replay(cli: Cli, *arguments: str) -> dict[str, int]:
    done = cli.run("dead-letters", "replay", "--json", *arguments)
    figures: dict[str, int] = json.loads(done.stdout)
    assert done.returncode == (1 if figures["bad"] else 0), done
    return figures


@pytest.mark.parametrize("time", ["2020-02-30T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z"])
def test_nonexistent_day_is_quarantined(harness: Harness, time: str) -> None:
    """The times are in canonical form, which is parsed without a full check, and outside the acceptance window."""
    good = harness.traffic(999)
    bad = one(harness, event_id=str(uuid4()), occurred_at=time)
    canonical = [{**bad, "occurred_at": "2026-01-01T00:00:00.000000Z"}, bad]
    harness.publish(good)
    harness.xadd([], 0, entry_id="*")
    send(harness, [bad])
    send(harness, canonical)
    reasons = [dead_letter["reason"] for dead_letter in harness.resources.store.rows(query("dead_letters"))]
    assert any("occurred_at" in reason and "window" not in reason for reason in reasons), reasons
    assert harness.intake.applied == 999


def test_repaired_dead_letter_is_counted_once(harness: Harness, cli: Cli) -> None:
    send(harness, [one(harness, input_tokens=-5, cost_usd="0.0000000001")])
    (dead_letter,) = dead_letters(cli)
    assert "input_tokens" in dead_letter["reason"]
    shown = cli.run("dead-letters", "show", str(dead_letter["id"]))
    assert '"cost_usd": "0.0000000001"' in shown.stdout
    assert replay(cli, str(dead_letter["id"])) == {"sent": 0, "bad": 1}
    for applied in (1, 1, 1):
        assert replay(cli, str(dead_letter["id"]), "--set", "input_tokens=7") == {"sent": 1, "bad": 0}
        harness.drain()
        assert harness.intake.applied == applied
    assert harness.intake == Intake(4, 1, 2, 1)
    assert dead_letters(cli) == []
    (done,) = dead_letters(cli, "--replayed")
    assert done["replayed_at"]
    assert harness.fetch("SELECT usage_count, total_tokens_used, total_cost_usd::text AS cost FROM user_agents") == [
        {"usage_count": 1, "total_tokens_used": 7, "cost": "0.0000000001"}
    ]
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


def test_replay_after_user_was_created(harness: Harness, cli: Cli) -> None:
    """An event with its own identity keeps it, even if the application sends it again before the replay."""
    user = str(uuid4())
    event = one(harness, user_id=user, event_id=str(uuid4()), occurred_at=datetime.now(UTC).isoformat(), messages=3)
    send(harness, [event])
    assert replay(cli, "--all") == {"sent": 1, "bad": 0}
    harness.drain()  # still unknown: quarantined again as another dead letter
    harness.resources.store.rows(testing_query("seed_population"), users=[user], agents=[])
    assert replay(cli, "--all") == {"sent": 1, "bad": 0}
    send(harness, [event])
    assert harness.intake == Intake(4, 1, 1, 2)
    assert harness.fetch("SELECT message_count FROM user_agents") == [{"message_count": 3}]


def test_replay_keeps_identity_of_application_key(harness: Harness, cli: Cli) -> None:
    event = one(harness, event_id="order-7", occurred_at=datetime.now(UTC).isoformat())
    send(harness, [event | {"colour": "red"}])
    (dead_letter,) = dead_letters(cli)
    assert replay(cli, str(dead_letter["id"])) == {"sent": 0, "bad": 1}
    assert replay(cli, str(dead_letter["id"]), "--unset", "colour") == {"sent": 1, "bad": 0}
    send(harness, [event])
    assert harness.intake == Intake(3, 1, 1, 1)


def test_replay_of_unreadable_entry_needs_repaired_body(harness: Harness, cli: Cli, tmp_path: Path) -> None:
    broken = json.dumps([one(harness), one(harness, messages=4)])[:-1]
    send(harness, broken, n="2")
    (dead_letter,) = dead_letters(cli)
    assert dead_letter["events"] == 2
    assert replay(cli, "--all") == {"sent": 0, "bad": 1}
    exported = [json.loads(line) for line in cli.run("dead-letters", "export").stdout.splitlines()]
    assert [line["payload"] for line in exported] == [broken]
    body = tmp_path / "repaired.json"
    body.write_text(exported[0]["payload"] + "]")
    for _ in range(2):
        assert replay(cli, str(dead_letter["id"]), "--body", str(body)) == {"sent": 2, "bad": 0}
    harness.drain()
    assert harness.intake == Intake(6, 2, 2, 2)
    assert harness.fetch("SELECT usage_count, message_count FROM user_agents") == [
        {"usage_count": 2, "message_count": 5}
    ]


def test_long_unreadable_entry_is_kept_whole(harness: Harness, cli: Cli) -> None:
    """The body is twice as long as an earlier limit of 100,000 characters."""
    body = json.dumps([one(harness, event_id=str(uuid4())) for _ in range(1_500)])
    send(harness, body, v="x", n="1500")
    (exported,) = [json.loads(line) for line in cli.run("dead-letters", "export").stdout.splitlines()]
    assert json.loads(exported["payload"]) == {"v": "x", "n": "1500", "events": body}


def test_redelivered_dead_letter_is_not_recorded_again(harness: Harness) -> None:
    """The worker died before the acknowledgement, and the user was created before the redelivery."""
    user = str(uuid4())
    event = one(harness, user_id=user, event_id=str(uuid4()), occurred_at=datetime.now(UTC).isoformat())
    entry = {"v": "1", "n": "1", "id": str(uuid4()), "events": json.dumps([event])}
    harness.redis.xadd("usage:events:{0}", entry)  # type: ignore[arg-type]
    harness.drain()
    assert harness.intake == Intake(1, 0, 0, 1)
    harness.resources.store.rows(testing_query("seed_population"), users=[user], agents=[])
    harness.redis.xadd("usage:events:{0}", entry)  # type: ignore[arg-type]
    harness.drain()
    assert harness.intake == Intake(1, 0, 0, 1)
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "99"),
        ("replay",),
        ("replay", "99"),
        ("replay", "--all", "--set", "nonsense=1"),
        ("replay", "--all", "1"),
    ],
)
def test_impossible_replay_is_refused_in_one_line(harness: Harness, cli: Cli, arguments: tuple[str, ...]) -> None:
    harness.publish([harness.traffic(1)[0] | {"user_id": UNKNOWN_USER}])
    harness.drain()
    assert cli.error_line(" ".join(("dead-letters", *arguments)))


def test_redelivered_event_outside_window_is_not_quarantined(harness: Harness) -> None:
    """The event is counted inside the acceptance window and delivered again outside it."""
    event = one(harness, event_id=str(uuid4()), occurred_at=datetime.now(UTC).isoformat())
    entry = {"v": "1", "n": "1", "id": str(uuid4()), "events": json.dumps([event])}
    harness.redis.xadd("usage:events:{0}", entry)  # type: ignore[arg-type]
    harness.drain()
    harness.redis.xadd("usage:events:{0}", entry)  # type: ignore[arg-type]
    with closing(Resources(harness.resources.settings.model_copy(update={"accept_days": -1}))) as later:
        later.flusher.flush(0)
    assert harness.intake == Intake(1, 1, 0, 0)
    assert harness.resources.store.rows(query("dead_letters")) == []
