"""Ids of an application's own, from the publisher to the ledger and back."""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from subprocess import PIPE, STDOUT
from subprocess import run as run_program
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.helpers import environment_without, eventually
from tests.integration.commands import send_file
from tests.integration.database import run
from tests.integration.test_poison_celery import running_worker
from usage_worker.errors import NamespaceError
from usage_worker.events.external_ids import KINDS, uuid_of
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, matching_dead_letters, replay
from usage_worker.monitoring.status import collect_status
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.file_import import ImportReport
from usage_worker.queue.processes import Process, Processes
from usage_worker.settings import DEFAULT_ID_NAMESPACE, Settings
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

OTHER = UUID(int=7)
KEPT = "SELECT kind, id, external_id FROM public.usage_external_ids ORDER BY kind, external_id"


@pytest.fixture
def creator(database: str, make_resources: Callable[..., Resources]) -> Resources:
    """Make a worker that creates unknown users and agents, with the owner's rights."""
    return make_resources(DATABASE_URL=database, unknown="create", reclaim_idle=0.001)


def flush(resources: Resources) -> Intake:
    return sum((resources.flusher.flush(shard, 60).intake for shard in range(2)), Intake())


def publisher(harness: IngestHarness, **options: Any) -> UsagePublisher:
    return UsagePublisher(harness.resources.settings.redis_url, ids="uuid5", linger=0, **options)


def track(harness: IngestHarness, *ids: Any, **fields: Any) -> None:
    with publisher(harness) as usage:
        assert usage.track(*ids, **fields)
        assert usage.flush()


def expected(**ids: str) -> list[tuple[Any, ...]]:
    return [(kind, uuid_of(kind, ids[kind]), ids[kind]) for kind in sorted(KINDS) if kind in ids]


def entries(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for shard in range(2) for _, fields in client.xrange(f"usage:events:{{{shard}}}")]  # type: ignore[misc, union-attr]


def test_ids_are_counted_and_found(harness: IngestHarness, creator: Resources, database: str) -> None:
    """The same ones as numbers, texts and UUIDs, tracked, rated and added; the agent has its own as its name."""
    with publisher(harness) as usage:
        for user in (42, "42", uuid_of("user", 42), str(uuid_of("user", 42))):
            assert usage.track(user, "support-bot", input_tokens=3, conversation_id="Zoë 🐘")
        assert usage.rate(42, "support-bot", 4)
        assert usage.add({"user_id": 42, "agent_id": "support-bot"})
        assert usage.track(uuid4(), "support-bot")
        assert usage.flush()
    assert flush(creator) == Intake(7, 7, 0, 0)
    assert run(database, KEPT) == expected(user="42", agent="support-bot", conversation="Zoë 🐘")
    user = uuid_of("user", 42)
    assert run(database, "SELECT public.usage_uuid_of('user', '42')") == [(user,)]
    counters = "SELECT usage_count, total_tokens_used, conversation_count FROM public.user_agents WHERE user_id = %s"
    assert run(database, counters, user) == [(5, 12, 1)]
    assert run(database, "SELECT id FROM public.agents WHERE name = 'support-bot'") == [
        (uuid_of("agent", "support-bot"),)
    ]
    assert run(database, "SELECT namespace FROM public.usage_id_namespace") == [(DEFAULT_ID_NAMESPACE,)]


def test_entry_has_each_original_once(harness: IngestHarness) -> None:
    with UsagePublisher(harness.resources.settings.redis_url, ids="uuid5", linger=60) as usage:
        for _ in range(20):
            assert usage.track(42, "bot")
        assert usage.track(uuid4(), uuid4())
        assert usage.flush()
    with_ids = [json.loads(fields[b"ids"]) for fields in entries(harness.redis) if b"ids" in fields]
    made = {"user": {uuid_of("user", 42).hex: "42"}, "agent": {uuid_of("agent", "bot").hex: "bot"}}
    assert with_ids == [made]


def test_forked_child_sends_the_originals_again(harness: IngestHarness) -> None:
    """What the child knows from its parent is new to its own entries."""
    usage = publisher(harness)
    assert usage.track(42, "bot")
    assert usage.flush()
    child = multiprocessing.get_context("fork").Process(target=usage.track, args=(42, "bot"))
    child.start()
    child.join()
    usage.close()
    first, second = (json.loads(fields[b"ids"]) for fields in entries(harness.redis))
    assert first == second == {"user": {uuid_of("user", 42).hex: "42"}, "agent": {uuid_of("agent", "bot").hex: "bot"}}


def test_objects_of_other_languages_and_of_celery(harness: IngestHarness, database: str) -> None:
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", uuid_of("user", 42))
    run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'x')", uuid_of("agent", "bot"))
    harness.xadd('[{"user_id": 42, "agent_id": "bot"}, {"user_id": "42", "agent_id": "bot", "messages": 2}]')
    harness.xadd('[{"user_id": null, "agent_id": "bot"}, {"user_id": 42.0, "agent_id": "bot"}]')
    with running_worker(harness, "prefork", USAGE_IDS="uuid5") as sender:
        sender.send_task("usage.track", kwargs={"user_id": 42, "agent_id": "bot"})
        sender.send_task("usage.track_many", args=[[{"user_id": "42", "agent_id": "bot", "conversation_id": 10**30}]])
        eventually(lambda: harness.resources.store.intake_totals().accepted == 6, 60)
    assert harness.resources.store.intake_totals() == Intake(6, 4, 0, 2)
    assert run(database, "SELECT usage_count, message_count FROM public.user_agents") == [(4, 5)]
    assert run(database, KEPT) == expected(user="42", agent="bot", conversation=str(10**30))
    assert {letter["reason"].partition(":")[0] for letter in harness.dead_letters()} == {"user_id"}


def test_files_with_any_id(harness: IngestHarness, creator: Resources, database: str, cli: Cli) -> None:
    lines = '{"user_id": 42, "agent_id": "bot"}\n{"user_id": "42", "agent_id": ""}\n'
    cli.env["USAGE_IDS"] = "uuid5"
    assert cli.run("publish", "-", stdin=lines.encode()).stdout == "1 event sent, 1 bad line\n"
    with publisher(harness) as usage:
        report, (problem,) = send_file(usage, lines)
        assert report == ImportReport(sent=1, bad=1)
        assert problem.startswith("line 2: event refused: agent_id: must be a UUID, a whole number")
        assert send_file(usage, "user_id,agent_id\n42,bot\n", is_csv=True) == (ImportReport(sent=1, bad=0), [])
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as usage:
        assert send_file(usage, lines)[0] == ImportReport(sent=0, bad=2)
    assert flush(creator) == Intake(3, 3, 0, 0)
    assert run(database, KEPT) == expected(user="42", agent="bot")


def test_refused_events_keep_their_originals_for_a_replay(
    harness: IngestHarness, creator: Resources, database: str
) -> None:
    """By columns and as objects; replayed twice, each counts once."""
    track(harness, 42, "bot")
    harness.xadd('[{"user_id": 43, "agent_id": "bot"}]')
    taker = Settings(DATABASE_URL=database, REDIS_URL=harness.resources.settings.redis_url, ids="uuid5")
    assert flush(type(creator)(taker)) == Intake(2, 0, 0, 2)
    assert [row[2] for row in run(database, KEPT)] == ["bot", "42", "43"]
    store = harness.resources.store
    for _ in range(2):
        with publisher(harness) as usage:
            letters = list(matching_dead_letters(store, DeadLetterFilter(replayed=True)))
            report = replay(store, usage, letters, RepairEdits(), harness.resources.settings, fail)
        assert report == ReplayReport(2, 0)
    assert flush(creator) == Intake(4, 2, 2, 0)
    assert run(database, "SELECT sum(usage_count) FROM public.user_agents") == [(2,)]


def fail(number: int, reason: Exception) -> None:
    pytest.fail(f"{number}: {reason}")


def test_entry_that_comes_twice_counts_once(harness: IngestHarness, creator: Resources, database: str) -> None:
    track(harness, 42, "bot")
    (fields,) = entries(harness.redis)
    assert flush(creator) == Intake(1, 1, 0, 0)
    before = run(database, "SELECT xmin, id FROM public.usage_external_ids ORDER BY id")
    harness.redis.xadd("usage:events:{0}", fields)  # type: ignore[arg-type]
    assert flush(creator) == Intake()
    track(harness, 42, "bot")
    assert flush(creator) == Intake(1, 1, 0, 0)
    assert run(database, "SELECT xmin, id FROM public.usage_external_ids ORDER BY id") == before, (
        "known ids were written"
    )


@pytest.mark.parametrize("ids", [b"", b"{", b'{"user": 1}', b'{"user": {"%b": "43"}}', b"\xff" * 2**20])
def test_wrong_originals_stop_no_event(
    harness: IngestHarness, creator: Resources, database: str, ids: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    track(harness, 42, "bot")
    (fields,) = entries(harness.redis)
    harness.redis.flushdb()
    field = ids.replace(b"%b", uuid_of("user", 42).hex.encode())
    harness.redis.xadd("usage:events:{0}", fields | {b"ids": field})  # type: ignore[arg-type]
    assert flush(creator) == Intake(1, 1, 0, 0)
    assert run(database, KEPT) == []
    assert "originals of ids are not kept" in "".join(capsys.readouterr())


def test_originals_that_others_have_stop_no_event(harness: IngestHarness, creator: Resources, database: str) -> None:
    run(database, "INSERT INTO public.usage_external_ids VALUES ('user', %s, '42')", uuid4())
    run(database, "INSERT INTO public.usage_external_ids VALUES ('agent', %s, 'bot 1')", uuid_of("agent", "bot"))
    track(harness, 42, "bot", conversation_id=1)
    assert flush(creator) == Intake(1, 1, 0, 0)
    assert run(database, "SELECT external_id FROM public.usage_external_ids ORDER BY 1") == [
        ("1",),
        ("42",),
        ("bot 1",),
    ]


def test_originals_that_the_database_refuses_stop_no_event(
    harness: IngestHarness, creator: Resources, database: str
) -> None:
    run(database, "ALTER TABLE public.usage_external_ids ADD CHECK (external_id ~ '^[ -~]*$')")
    for conversation in ("one", "Zoë", "two", "🐘"):
        track(harness, 42, "bot", conversation_id=conversation)
    assert flush(creator) == Intake(4, 4, 0, 0)
    assert run(database, "SELECT external_id FROM public.usage_external_ids ORDER BY 1") == [
        ("42",),
        ("bot",),
        ("one",),
        ("two",),
    ]
    assert run(database, "SELECT conversation_count FROM public.user_agents") == [(4,)]


def test_worker_of_another_namespace_counts_nothing(
    harness: IngestHarness, creator: Resources, database: str, make_resources: Callable[..., Resources]
) -> None:
    track(harness, 42, "bot")
    assert flush(creator) == Intake(1, 1, 0, 0)
    other = make_resources(ids="uuid5", id_namespace=OTHER)
    track(harness, 42, "bot")
    with pytest.raises(NamespaceError, match=f"set USAGE_ID_NAMESPACE={DEFAULT_ID_NAMESPACE} for"):
        flush(other)
    problems = {check.name: check.reason for check in collect_status(other.settings).problems}
    assert f"the database has ids of {DEFAULT_ID_NAMESPACE}" in problems["kept_namespace"]
    assert "kept_namespace" not in {check.name for check in collect_status(creator.settings).problems}
    # One that makes no ids counts the UUIDs; what these were made of it leaves out.
    harness.publish({"user_id": harness.users[0], "agent_id": harness.agents[0]}, counted=False)
    silent = make_resources(id_namespace=OTHER)
    assert flush(silent) == Intake(2, 2, 0, 0)


def test_worker_of_another_namespace_does_not_start(harness: IngestHarness, creator: Resources, tmp_path: Path) -> None:
    track(harness, 42, "bot")
    flush(creator)
    settings = harness.resources.settings
    environment = environment_without("USAGE_") | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "USAGE_ID_NAMESPACE": str(OTHER),
        "USAGE_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "celery", "-A", "usage_worker", "worker", "--pool", "solo"]
    ended = run_program(command, env=environment, cwd=tmp_path, stdout=PIPE, stderr=STDOUT, timeout=60, check=False)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stdout.decode().splitlines() if "namespace" in line]
    assert f"set USAGE_ID_NAMESPACE={DEFAULT_ID_NAMESPACE} for publishers and workers" in line


def test_publisher_and_status_name_another_namespace(harness: IngestHarness, caplog: pytest.LogCaptureFixture) -> None:
    processes = Processes(harness.resources.stream.connection)
    worker = Process("worker", ["counting"], ["celery"], 2, "1", namespace=str(DEFAULT_ID_NAMESPACE))
    processes.record("worker@here", worker)
    settings = harness.resources.settings
    assert "namespace_setting" not in {check.name for check in collect_status(settings).problems}
    other = settings.model_copy(update={"id_namespace": OTHER})
    reason = {check.name: check.reason for check in collect_status(other).problems}["namespace_setting"]
    assert reason == f"the workers have the namespace {DEFAULT_ID_NAMESPACE}, and this command has {OTHER}"
    with caplog.at_level(logging.WARNING):
        track(harness, 42, "bot")
        assert "USAGE_ID_NAMESPACE" not in caplog.text
        with UsagePublisher(settings=other, ids="uuid5") as usage:
            usage.track(42, "bot")
            assert usage.flush()
            usage.track(42, "bot")
            assert usage.flush()
    assert caplog.text.count(f"USAGE_ID_NAMESPACE is {OTHER} here, and the workers have {DEFAULT_ID_NAMESPACE}") == 1
    processes.record("worker@there", worker._replace(namespace=str(OTHER)))
    reason = {check.name: check.reason for check in collect_status(settings).problems}["namespace_setting"]
    assert f"worker@there: {OTHER}" in reason
