"""`usage-worker forget` erases one user everywhere, and nobody else; late events are dropped."""

from __future__ import annotations

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from typing_extensions import override

from tests.access.sample import AGENT, OWNER, RECIPIENT, add_rows
from tests.erasure import FORGET_KEY, naming
from tests.helpers import eventually
from tests.integration.commands import NOW
from tests.integration.database import run, with_option
from tests.integration.erasures import event, forget
from usage_worker.events.external_ids import ExternalIds, external_ids
from usage_worker.events.tombstones import ForgetKey
from usage_worker.maintenance.forget_again import returned
from usage_worker.maintenance.forget_letters import count_letters, erase_from_letters
from usage_worker.maintenance.person import Person
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.settings import DEFAULT_ID_NAMESPACE
from usage_worker.store import byte_pages
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake
from usage_worker.store.task_runs import last_runs, record_run
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import LiteralString

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from usage_worker.events.external_ids import ExternalId, Kind
    from usage_worker.service.resources import Resources


RECORD = "INSERT INTO usage_task_runs (task, finished_at, seconds, report) VALUES ('x', now(), 1, %s)"


def test_user_is_erased_everywhere_and_others_stay(
    forgetter: Cli, harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    gone, other = harness.users[:2]
    agent = harness.agents[0]
    conversation = str(uuid4())
    for user in (gone, other):
        harness.publish(*(event(str(user), str(agent), conversation_id=conversation) for _ in range(3)))
    broken = [event(str(user), str(uuid4())) for user in (gone, other)]
    harness.xadd(json.dumps(broken), n="2")
    harness.flush()
    run(database, "UPDATE user_agents SET shared_with = ARRAY[%s::uuid] WHERE user_id = %s", gone, other)
    run(database, "INSERT INTO usage_external_ids (kind, id, external_id) VALUES ('user', %s, 'maryann7')", gone)
    assert forgetter.run("run", "graph").returncode == 0
    assert forgetter.run("run", "refresh").returncode == 0
    before = naming(database, str(gone))
    assert len(before) > 5, before

    planned = forget(forgetter, str(gone), "--dry-run")
    assert planned["rows"]["usage_events.user_id"] == 3
    assert planned["rows"]["usage_dead_letters.payload"] == 1
    assert naming(database, str(gone)) == before

    done = forget(forgetter, str(gone), "--yes")
    assert done["rows"] == planned["rows"]
    assert str(gone) not in json.dumps(done)
    assert naming(database, str(gone), "maryann7") == set()
    assert run(database, "SELECT usage_count FROM user_agents WHERE user_id = %s", other) == [(3,)]
    assert run(database, "SELECT count(*) FROM usage_events") == [(3,)]
    assert run(database, "SELECT sum(usage_count), max(users) FROM agent_usage_hourly") == [(3, 1)]
    assert run(database, "SELECT events FROM usage_dead_letters") == [(1,)]
    assert run(database, "SELECT hash FROM usage_forgotten") == [(ForgetKey(FORGET_KEY).hash(gone),)]
    assert harness.resources.store.rows(testing_query("unbalanced")) == []
    found = forgetter.run("run", "reconcile", "--json")
    assert found.returncode == 0, found.stdout
    # Counters of Prometheus, which must not fall.
    totals = json.loads(forgetter.run("status", "--json").stdout)["totals"]
    assert (totals["applied"], totals["quarantined"]) == (6, 2)

    # Late events, also where unknown users are created, and without the key none is counted.
    harness.publish(event(str(gone), str(agent)), event(str(other), str(agent)), counted=False)
    creating = make_resources(forget_key=FORGET_KEY, unknown="create", DATABASE_URL=database)
    intake = [creating.flusher.flush(shard, 60).intake for shard in range(2)]
    assert sum(it.quarantined for it in intake) == 1
    assert sum(it.applied for it in intake) == 1
    assert naming(database, str(gone)) == set()
    assert run(database, "SELECT count(*) FROM usage_dead_letters") == [(1,)]
    # Nobody's mistake, so `status` does not warn of it as of the two broken ones.
    read = [FlushRecords(harness.resources.stream.connection).read(shard) for shard in range(2)]
    assert sum(record.quarantined for record, _ in read) == len(broken)
    assert sum(counters.quarantined["forgotten_user"] for _, counters in read) == 1

    again = forget(forgetter, str(gone), "--yes")
    assert sum(again["rows"].values()) == 0


class InBetween(ExternalIds):
    """Ids whose first use lets somebody else come in between."""

    def __init__(self, come: Callable[[], object]) -> None:
        super().__init__(DEFAULT_ID_NAMESPACE)
        self._come: list[Callable[[], object]] = [come]

    @override
    def _of_text(self, kind: Kind, text: str) -> ExternalId:
        if self._come:
            self._come.pop()()
        return super()._of_text(kind, text)


def test_letter_of_two_users_who_are_erased_at_once(harness: IngestHarness, database: str) -> None:
    """One has read the letter before the other rewrites it, and must not write the other user again."""
    store = harness.resources.store
    first, second, other = harness.users[:3]
    bad = [event(str(user), str(AGENT), tokens="many") for user in (first, second, other) for _ in range(40)]
    harness.xadd(json.dumps(bad), n=str(len(bad)))
    assert harness.flush().quarantined == len(bad)
    ids = InBetween(lambda: erase_from_letters(store, Person(second), external_ids(DEFAULT_ID_NAMESPACE), 0))
    erase_from_letters(store, Person(first), ids, 0)
    [(events, payload)] = run(database, "SELECT events, payload FROM usage_dead_letters")
    assert events == 40
    assert [it["user_id"] for it in json.loads(payload)["events"]] == [str(other)] * 40


def test_erasure_reads_letters_by_bytes(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store, user = harness.resources.store, harness.users[0]
    bad = {"user_id": str(user), "agent_id": str(harness.agents[0]), "colour": "x" * 1_000}
    harness.xadd(json.dumps([bad] * 9), n="9")
    assert harness.flush().quarantined == 9
    monkeypatch.setattr(byte_pages, "PAGE_BYTES", 2_500)
    rows, read = Store.rows, []

    def recording(self: Store, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        found = rows(self, statement, **parameters)
        read.append(sum(len(row["payload"]) for row in found if "payload" in row))
        return found

    monkeypatch.setattr(Store, "rows", recording)
    assert count_letters(store, Person(user), external_ids(DEFAULT_ID_NAMESPACE)) == 9
    assert 0 < max(read) <= 2_500


def test_unreadable_letter_is_deleted_whole(forgetter: Cli, harness: IngestHarness, database: str) -> None:
    """Nobody can tell in it whose events are whose."""
    gone, other = harness.users[:2]
    harness.xadd(f"[{json.dumps(event(str(gone), str(AGENT)))}, {json.dumps(event(str(other), str(AGENT)))}", n="2")
    assert harness.flush().quarantined == 2
    notes = ["1 dead letter deleted with all events"]
    assert forget(forgetter, str(gone), "--yes")["notes"] == notes
    assert run(database, "SELECT FROM usage_dead_letters") == []


def test_memory_of_the_search_for_restored_users_does_not_grow_with_users(store: Store, database: str) -> None:
    key, ids = ForgetKey(FORGET_KEY), external_ids(DEFAULT_ID_NAMESPACE)
    erased = uuid4()
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", erased)
    known = {key.tombstone(erased)}
    assert returned(store, known, key, ids) == [Person(erased)]
    peaks = []
    for more in (10_000, 30_000):
        run(database, "INSERT INTO auth.users (id) SELECT gen_random_uuid() FROM generate_series(1, %s)", more)
        tracemalloc.start()
        assert returned(store, known, key, ids) == [Person(erased)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_restored_user_is_erased_again(forgetter: Cli, harness: IngestHarness, database: str) -> None:
    gone, agent = harness.users[0], harness.agents[0]
    assert forget(forgetter, str(gone), "--yes")["users"] == 1
    # As after the restore of a backup that is older than the erasure: Redis alone knows.
    run(database, "DELETE FROM usage_forgotten")
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", gone)
    run(database, "INSERT INTO user_agents (user_id, agent_id) VALUES (%s, %s)", gone, agent)
    assert forget(forgetter, "--again", "--dry-run")["users"] == 1
    assert forget(forgetter, "--again", "--yes")["users"] == 1
    assert naming(database, str(gone)) == set()
    assert run(database, "SELECT count(*) FROM usage_forgotten") == [(1,)]
    assert forget(forgetter, "--again", "--yes")["users"] == 0


def test_who_comes_back_before_the_answer_is_erased_again(
    forgetter: Cli, harness: IngestHarness, database: str
) -> None:
    gone = harness.users[0]
    forget(forgetter, str(gone), "--yes")
    run(database, "DELETE FROM usage_forgotten")

    def meanwhile() -> None:
        harness.publish(event(str(gone), str(AGENT)), counted=False)
        assert harness.flush().quarantined == 1
        assert naming(database, str(gone))

    code, printed = forgetter.on_terminal("y\n", "forget", "--again", meanwhile=meanwhile)
    assert code == 0, printed
    assert "0 users with 0 rows would be erased" in printed
    assert "1 user erased" in printed
    assert naming(database, str(gone)) == set()


WHAT_KEEPS_AN_EVENT = {
    "refused": "ALTER TABLE usage_events ADD CHECK (model <> 'poison')",
    "held": f"LOCK TABLE usage_events_{NOW:%Y%m%d} IN SHARE MODE",
}


@pytest.mark.parametrize("how", WHAT_KEEPS_AN_EVENT)
def test_late_event_that_is_not_counted_leaves_no_id(
    forgetter: Cli, harness: IngestHarness, make_resources: Callable[..., Resources], database: str, how: str
) -> None:
    """The pair of such an event is not missed: it is looked for when counters are applied."""
    gone, agent = external_ids(DEFAULT_ID_NAMESPACE).of("user", "maryann7").id, str(harness.agents[0])

    def counted(**fields: str) -> Intake:
        with UsagePublisher(harness.resources.settings.redis_url, ids="uuid5", linger=0) as publisher:
            assert publisher.add(event("maryann7", agent, **fields))
        worker = make_resources(DATABASE_URL=database, forget_key=FORGET_KEY, unknown="create")
        return worker.flusher.flush(worker.stream.shard_of(gone), 60).intake

    assert counted() == Intake(1, 1, 0, 0)
    assert "public.usage_external_ids" in naming(database, "maryann7")
    forget(forgetter, str(gone), "--yes")
    with psycopg.connect(database, autocommit=how == "refused") as holder:
        holder.execute(WHAT_KEEPS_AN_EVENT[how].encode())
        assert counted(model="poison") == Intake(1, 0, 0, 1)
        assert naming(database, str(gone), "maryann7") == set()


def test_key_of_another_users_event_stays(
    forgetter: Cli, harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """An identity is an id and a time; only of an event without a time is its first one kept."""
    gone, other, agent = *harness.users[:2], harness.agents[0]
    untimed = event(str(other), str(agent))
    del untimed["occurred_at"]
    harness.xadd(json.dumps([untimed]), n="1")
    harness.xadd(json.dumps([event(str(gone), str(agent), event_id=untimed["event_id"])]), n="1")
    assert harness.flush().applied == 2
    forget(forgetter, str(gone), "--yes")
    harness.xadd(json.dumps([untimed, untimed]), n="2")
    flusher = make_resources(forget_key=FORGET_KEY, DATABASE_URL=database).flusher
    assert flusher.flush(0, 60).intake == Intake(2, 0, 2, 0)


def test_run_that_ends_after_an_erasure_records_nobody(forgetter: Cli, harness: IngestHarness) -> None:
    """A comparison lasts for minutes, and records whom it found at its beginning."""
    gone, other = map(str, harness.users[:2])
    harness.publish(*(event(user, str(harness.agents[0])) for user in (gone, other)))
    harness.flush()
    forget(forgetter, gone, "--yes")
    found = [{"user_id": user, "figure": "usage_count"} for user in (gone, other)]
    for differences, kept in ((found, found[1:]), (found[:1], []), ([], [])):
        record_run(harness.resources.store, "maintenance.reconcile", 1.0, {"differences": differences, "left": 2})
        report = last_runs(harness.resources.store)["maintenance.reconcile"].report
        assert report == {"differences": kept, "left": 2}


def test_erasure_waits_for_a_run_that_is_being_recorded(forgetter: Cli, harness: IngestHarness, database: str) -> None:
    gone = str(harness.users[0])
    differences = json.dumps({"differences": [{"user_id": gone}]})
    waits = "SELECT 1 FROM pg_locks WHERE relation = 'usage_task_runs'::regclass AND NOT granted"
    with psycopg.connect(database) as recording, ThreadPoolExecutor() as threads:
        recording.execute(RECORD, [differences])
        erasure = threads.submit(forget, forgetter, gone, "--yes")
        eventually(lambda: run(database, waits), 30)
        recording.commit()
        assert erasure.result()["users"] == 1
    assert naming(database, gone) == set()


def test_late_entry_with_more_events_than_it_says(
    forgetter: Cli, harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """Without the number of its events an entry is quarantined as one, also what is left of it."""
    gone, other = map(str, harness.users[:2])
    forget(forgetter, gone, "--yes")
    for users in ([gone, other], [gone, other, other], [gone, gone]):
        harness.xadd(json.dumps([event(user, str(AGENT)) for user in users]), "none")
    flusher = make_resources(forget_key=FORGET_KEY, DATABASE_URL=database).flusher
    assert flusher.flush(0, 60).intake.quarantined == 4
    assert naming(database, gone) == set()
    assert run(database, "SELECT events FROM usage_dead_letters ORDER BY id") == [(1,), (2,)]


def test_long_letter_may_take_longer_than_a_transaction_waits(
    forgetter: Cli, harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """Whom it names is looked for between two statements."""
    forget(forgetter, str(harness.users[0]), "--yes")
    harness.xadd(f'[{{"user_id": [{", ".join(f"{number:09}" for number in range(200_000))}]}}')
    harness.xadd(json.dumps([event(str(user), str(harness.agents[0])) for user in (harness.users[1], uuid4())]))
    limited = with_option(database, "idle_in_transaction_session_timeout=300")
    flusher = make_resources(forget_key=FORGET_KEY, DATABASE_URL=limited).flusher
    assert flusher.flush(0, 60).intake == Intake(3, 1, 0, 2)


def test_sample_with_shares_and_history_is_erased(forgetter: Cli, database: str) -> None:
    with psycopg.connect(database) as connection:
        add_rows(connection)
        connection.execute("DELETE FROM usage_id_namespace")  # the sample has another namespace and key
        connection.execute("DELETE FROM usage_forgotten")
    assert len(naming(database, str(RECIPIENT))) > 3
    planned = [forget(forgetter, str(user), "--dry-run")["rows"] for user in (RECIPIENT, OWNER)]
    assert forget(forgetter, str(RECIPIENT), "--yes")["rows"] == planned[0]
    assert naming(database, str(RECIPIENT)) == set()
    assert run(database, "SELECT count(*) FROM user_agents WHERE user_id = %s", OWNER) == [(1,)]
    forget(forgetter, str(OWNER), "--yes")
    assert naming(database, str(OWNER)) == set()


def test_what_is_wrong_is_said_in_one_line(forgetter: Cli, ingest_url: str) -> None:
    assert "give a user, or --again" in forgetter.error_line("forget")
    assert "--yes" in forgetter.error_line(f"forget {uuid4()}")
    forget(forgetter, "mary", "--yes")
    forgetter.env["USAGE_FORGET_KEY"] = FORGET_KEY[::-1]
    assert "another USAGE_FORGET_KEY" in forgetter.error_line("forget john --yes")
    del forgetter.env["USAGE_FORGET_KEY"]
    assert "USAGE_FORGET_KEY is not set" in forgetter.error_line("forget john --yes")
    forgetter.env |= {"USAGE_FORGET_KEY": FORGET_KEY, "DATABASE_URL": ingest_url}
    assert "does not own the tables" in forgetter.error_line("forget john --yes")
