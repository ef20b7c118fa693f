"""Dead letters from Python: pages, numbers, and a replay."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.integration.database import run
from tests.unit.sockets import refusing_url
from usage_worker.errors import SettingsError, StreamUnavailableError
from usage_worker.maintenance import dead_letter_choice as choice
from usage_worker.maintenance import dead_letter_pages, dead_letters, pruning
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, replay
from usage_worker.maintenance.pruning import PRUNE, prune, run_prune
from usage_worker.maintenance.reconcile import run_reconcile
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.letter_events import restore
from usage_worker.settings import Settings
from usage_worker.store import byte_pages
from usage_worker.store.intake import Intake
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness
    from usage_worker.errors import EventRefusedError
    from usage_worker.store.connection import Store

SETTINGS = Settings()


def test_pages_and_numbers(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 5)
    monkeypatch.setattr(dead_letter_pages, "RANGE_ROWS", 2)
    every = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
    ids = [row["id"] for row in every]
    assert ids == sorted(ids)
    assert len(ids) == 5
    assert list(dead_letters.dead_letters_by_id(store, [ids[4], ids[1], ids[4]])) == [every[1], every[4]]
    with pytest.raises(SettingsError, match=f"there is no dead letter {ids[4] + 1}$"):
        dead_letters.dead_letters_by_id(store, [ids[0], ids[4] + 1])


def test_all_that_match_are_counted_and_the_newest_are_returned(harness: IngestHarness) -> None:
    store = quarantined(harness, 5)
    ids = [row["id"] for row in dead_letters.matching_dead_letters(store, DeadLetterFilter())]
    every = DeadLetterFilter()
    assert choice.matching(store, every) == (5, 5, ids[::-1])
    assert choice.matching(store, every, 2) == (5, 5, [ids[4], ids[3]])
    assert choice.matching(store, every, 0) == (5, 5, [])
    some = DeadLetterFilter(reason="such user", ids=ids[:3])
    assert choice.matching(store, some, 1) == (3, 3, [ids[2]])
    (group,) = choice.reasons(store, some, 9)
    assert (group["reason"], group["events"], group["dead_letters"]) == ("user_id: no such user", 3, 3)
    assert choice.matching(store, DeadLetterFilter(ids=[])) == (0, 0, [])


def test_replay_marks_sent_events_and_names_others(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 5)
    monkeypatch.setattr(byte_pages, "PAGE_ROWS", 2)
    rows = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
    rows[2]["payload"] = "{"
    problems: list[int] = []

    def on_problem(number: int, error: EventRefusedError) -> None:
        assert "is not JSON" in str(error)
        problems.append(number)

    edits = RepairEdits({"user_id": str(harness.users[0])})
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        assert replay(store, publisher, rows, edits, SETTINGS, on_problem) == ReplayReport(sent=4, bad=1)
    assert problems == [rows[2]["id"]]
    assert [row["id"] for row in dead_letters.matching_dead_letters(store, DeadLetterFilter())] == problems
    assert len(list(dead_letters.matching_dead_letters(store, DeadLetterFilter(replayed=True)))) == 5
    assert harness.flush() == Intake(4, 4, 0, 0)


def test_dead_letters_stay_if_redis_is_unreachable(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 1)
    monkeypatch.setattr(dead_letters, "FLUSH_SECONDS", 0.1)
    publisher = UsagePublisher(refusing_url())
    rows = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
    with pytest.raises(StreamUnavailableError, match="replay again"):
        replay(store, publisher, rows, RepairEdits(), SETTINGS, lambda *_: None)
    assert list(dead_letters.matching_dead_letters(store, DeadLetterFilter())) == rows
    publisher.close(timeout=0)


def test_events_that_share_dead_letter_are_replayed(harness: IngestHarness) -> None:
    """With the identity that their places in the entry give them."""
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    bad = [pair | {"messages": 1, "colour": "red"} for _ in range(150)]
    harness.xadd(json.dumps([pair, *bad, pair]), n="152")
    harness.xadd(json.dumps(bad), n="150")
    assert harness.flush() == Intake(302, 2, 0, 300)
    store = harness.resources.store
    rows = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
    assert [row["events"] for row in rows] == [150, 150]
    edits = RepairEdits(dropped=frozenset({"colour"}))
    for counted in (300, 0):
        with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
            report = replay(store, publisher, rows, edits, SETTINGS, lambda *_: None)
            assert report == ReplayReport(sent=300, bad=0)
        assert harness.flush() == Intake(300, counted, 300 - counted, 0)
    assert run(harness.resources.settings.database_url, "SELECT usage_count FROM user_agents") == [(302,)]


def test_whole_entry_is_sent_again_as_it_was(harness: IngestHarness) -> None:
    fields: dict[bytes, bytes] = {b"v": b"1", b"events": gzip.compress(b"[]"), b"\xff": b"\x00", b"n": b"3"}
    harness.redis.xadd("usage:events:{0}", fields)  # type: ignore[arg-type]
    for _ in range(2):
        assert harness.flush() == Intake(3, 0, 0, 3)
        row = harness.dead_letters()[-1]
        assert restore(row) == fields
        harness.redis.xadd("usage:events:{0}", restore(row))  # type: ignore[arg-type]


def test_many_dead_letters_are_inserted_at_once(harness: IngestHarness) -> None:
    """Also where some are refused: the others are not inserted one by one."""
    events = [{"user_id": str(uuid4()), "agent_id": str(harness.agents[0]), "model": "é"} for _ in range(3_000)]
    harness.publish(*events, counted=False)
    url = harness.resources.settings.database_url
    run(url, "CREATE TABLE statements (at timestamptz)")
    run(url, "GRANT INSERT ON statements TO public")
    run(
        url,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO statements VALUES (now()); RETURN NULL; END $$",
    )
    run(url, "CREATE TRIGGER note BEFORE INSERT ON usage_dead_letters EXECUTE FUNCTION note()")
    assert harness.flush().quarantined == 3_000
    assert len(run(url, "SELECT FROM statements")) <= 10
    assert len(harness.dead_letters()) == 3_000


def test_old_dead_letters_are_deleted(harness: IngestHarness) -> None:
    """Replayed or not; neither `reconcile` nor the intake totals miss them."""
    store, url = quarantined(harness, 9), harness.resources.settings.database_url
    ids = [row["id"] for row in harness.dead_letters()]
    run(url, "UPDATE usage_dead_letters SET created_at = now() - interval '91 days' WHERE id = ANY (%s)", ids[2:6])
    run(url, "UPDATE usage_dead_letters SET created_at = now() - interval '89 days' WHERE id = %s", ids[0])
    run(url, "UPDATE usage_dead_letters SET replayed_at = now() WHERE id = ANY (%s)", ids[3:5])
    settings = harness.resources.settings
    assert run_prune(store, settings)["deleted"] == 4
    assert [row["id"] for row in harness.dead_letters()] == ids[:2] + ids[6:]
    assert run_prune(store, settings)["deleted"] == 0
    assert last_runs(store)[PRUNE].report == {"deleted": 0, "deleted_ids": 0}
    assert store.intake_totals() == Intake(9, 0, 0, 9)
    assert run_reconcile(store, settings)["different"] == 0
    shorter = settings.model_copy(update={"dead_letter_days": 1})
    assert run_prune(store, shorter)["deleted"] == 1
    with pytest.raises(SettingsError, match="does not own the tables"):
        run_prune(harness.worker.store, settings)


def test_dead_letters_are_deleted_page_by_page(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PAGE_ROWS", 2)
    store = quarantined(harness, 7)
    run(harness.resources.settings.database_url, "UPDATE usage_dead_letters SET created_at = '2020-01-01'")
    assert prune(store, timedelta(days=90)).deleted == 7


def quarantined(harness: IngestHarness, count: int) -> Store:
    """Quarantine events of unknown users."""
    events = ({"user_id": uuid4(), "agent_id": harness.agents[0]} for _ in range(count))
    harness.publish(*events, counted=False)
    assert harness.flush().quarantined == count
    return harness.resources.store


def test_event_without_a_time_is_too_old_for_a_replay_when_its_key_may_be_forgotten(harness: IngestHarness) -> None:
    """It has a key of the application's: whether it counts depends on the first time of the key."""
    store, settings, user = harness.resources.store, harness.resources.settings, uuid4()
    before = datetime.now(UTC) - timedelta(days=40)
    with UsagePublisher(settings.redis_url, linger=0) as publisher:
        assert publisher.track(user, harness.agents[0], event_id="order-7")
        assert publisher.flush()
    assert harness.flush() == Intake(1, 0, 0, 1)
    run(settings.database_url, "UPDATE usage_dead_letters SET entry_id = %s", f"{int(before.timestamp() * 1000)}-0")
    run(settings.database_url, "INSERT INTO auth.users (id) VALUES (%s)", user)
    problems: list[str] = []
    for edits, report in ((RepairEdits(), (0, 1)), (RepairEdits({"occurred_at": before.isoformat()}), (1, 0))):
        letters = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
        with UsagePublisher(settings.redis_url, linger=0, backfill=True) as publisher:
            found = replay(store, publisher, letters, edits, settings, lambda _, error: problems.append(str(error)))
        assert found == report
    assert problems == [
        "event refused: occurred_at: older than the acceptance window (35 days), and the event has no time of its own;"
        " give it one with --set occurred_at=TIME"
    ]
    assert harness.flush() == Intake(1, 1, 0, 0)
