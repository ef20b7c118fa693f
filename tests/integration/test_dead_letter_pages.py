"""Many and large dead letters: commands read a page at a time, and send no number twice."""

from __future__ import annotations

import json
import os
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.database import run
from tests.integration.test_dead_letters import SETTINGS, quarantined
from usage_worker.cli import dead_letters as commands
from usage_worker.errors import StreamUnavailableError
from usage_worker.maintenance import dead_letters
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, matching_dead_letters, replay
from usage_worker.publisher import UsagePublisher
from usage_worker.store import byte_pages
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import LiteralString

    from tests.integration.conftest import IngestHarness
    from usage_worker.events.wire import Prepared

FEW, MANY = 16, 64
PAYLOAD_BYTES = 2**18
EVERY = DeadLetterFilter()


@pytest.fixture(autouse=True)
def _settings(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("REDIS_URL", redis_url)


def test_memory_does_not_grow_with_letters(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that shows no payload reads none."""
    monkeypatch.setattr(byte_pages, "PAGE_BYTES", 8 * PAYLOAD_BYTES)
    add_letters(database, MANY, PAYLOAD_BYTES)
    uses: dict[str, Callable[[str], None]] = {
        "list": lambda reason: commands.list_letters(reason=reason),
        "list --json": lambda reason: commands.list_letters(reason=reason, as_json=True),
        "export": lambda reason: commands.export(reason=reason),
        "export ID": lambda reason: commands.export(numbers(database, reason)),
        "replay": lambda reason: commands.replay(reason=reason, unset=["colour"]),
        "replay ID": lambda reason: commands.replay(numbers(database, reason), unset=["colour"]),
        "discard ID": lambda reason: commands.discard(numbers(database, reason), yes=True),
    }
    peaks = {name: [peak_memory(use, reason_of(count)) for count in (FEW, MANY)] for name, use in uses.items()}
    assert {name: found for name, found in peaks.items() if found[1] > max(1.5 * found[0], PAYLOAD_BYTES)} == {}


def peak_memory(use: Callable[[str], None], reason: str) -> int:
    """Return the bytes that Python had at most, more than before, while a command printed into nothing."""
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        tracemalloc.start()
        try:
            use(reason)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def add_letters(database: str, many: int, size: int) -> None:
    """Quarantine events with a field that they may not have, `FEW` for one reason and `many` for another."""
    run(
        database,
        """
        INSERT INTO usage_dead_letters (entry_key, position, stream, entry_id, reason, payload)
        SELECT gen_random_uuid(), 0, 'usage:events:{0}', '0-0', 'colour ' || letters || ': no such field',
               json_build_object('user_id', gen_random_uuid(), 'agent_id', gen_random_uuid(), 'occurred_at', now(),
                                 'colour', repeat('x', %s))
          FROM unnest(%s::int[]) AS letters, generate_series(1, letters)
        """,
        size,
        [FEW, many],
    )


def reason_of(letters: int) -> str:
    return f"colour {letters}: no such field"


def numbers(database: str, reason: str) -> list[int]:
    return [row[0] for row in run(database, "SELECT id FROM usage_dead_letters WHERE reason = %s ORDER BY id", reason)]


def test_filtered_export_sends_each_number_once(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_letters(database, 3_000, 1)
    rows, sent = Store.rows, 0

    def counting(self: Store, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        nonlocal sent
        sent += sum(len(value) for value in parameters.values() if isinstance(value, list))
        return rows(self, statement, **parameters)

    monkeypatch.setattr(Store, "rows", counting)
    commands.export(reason=reason_of(3_000))
    found = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert found == numbers(database, reason_of(3_000))
    assert sent <= len(found)


class SenderWithWorker:
    """A publisher whose events are counted as soon as they are sent, and that fails at chosen flushes."""

    def __init__(
        self, publisher: UsagePublisher, work: Callable[[], object], failing: frozenset[int] = frozenset()
    ) -> None:
        self.ids = publisher.ids
        self.flushes = 0
        self._publisher, self._work, self._failing = publisher, work, failing

    def send(self, event: Prepared) -> bool:
        return self._publisher.send(event)

    def flush(self, timeout: float) -> bool:
        self.flushes += 1
        if self.flushes in self._failing or not self._publisher.flush(timeout):
            return False
        self._work()
        return True


def test_letters_that_the_replay_makes_are_left(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pages, "PAGE_ROWS", 2)
    store = quarantined(harness, 5)
    earlier = [row["id"] for row in matching_dead_letters(store, EVERY)]
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        sender = SenderWithWorker(publisher, harness.flush)
        report = replay(
            store,
            sender,
            matching_dead_letters(store, EVERY),
            RepairEdits(),
            SETTINGS,
            lambda *_: None,
        )
    assert report == ReplayReport(sent=5, bad=0)
    assert sender.flushes == 3
    left = [row["id"] for row in matching_dead_letters(store, EVERY)]
    assert len(left) == 5
    assert min(left) > max(earlier)


def test_replay_that_fails_between_pages_goes_on(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pages, "PAGE_ROWS", 2)
    store = quarantined(harness, 5)
    ids = [row["id"] for row in matching_dead_letters(store, EVERY)]
    edits = RepairEdits({"user_id": str(harness.users[0])})
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        failing = SenderWithWorker(publisher, harness.flush, frozenset({2}))
        with pytest.raises(StreamUnavailableError, match="replay again"):
            replay(store, failing, matching_dead_letters(store, EVERY), edits, SETTINGS, lambda *_: None)
        assert [row["id"] for row in matching_dead_letters(store, EVERY)] == ids[2:]
        again = replay(store, publisher, matching_dead_letters(store, EVERY), edits, SETTINGS, lambda *_: None)
    assert again == ReplayReport(sent=3, bad=0)
    harness.flush()
    assert run(harness.resources.settings.database_url, "SELECT usage_count FROM user_agents") == [(5,)]


def test_more_events_than_the_buffer_holds_are_replayed(
    harness: IngestHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "FLUSH_EVERY", 10)
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    harness.xadd(json.dumps([pair | {"colour": "red"} for _ in range(150)]), n="150")
    assert harness.flush() == Intake(150, 0, 0, 150)
    store = harness.resources.store
    edits = RepairEdits(dropped=frozenset({"colour"}))
    with UsagePublisher(harness.resources.settings.redis_url, linger=60, buffer_bytes=20_000) as publisher:
        report = replay(
            store,
            publisher,
            list(matching_dead_letters(store, EVERY)),
            edits,
            SETTINGS,
            lambda *_: None,
        )
    assert report == ReplayReport(sent=150, bad=0)
    assert harness.flush() == Intake(150, 150, 0, 0)
