"""An application's own ids: kept once, found in both directions, and deleted when nothing needs them any more."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

import pytest

from tests.helpers import eventually
from tests.integration.database import run
from usage_worker.errors import DataRefusedError
from usage_worker.events.external_ids import ExternalId, uuid_of
from usage_worker.maintenance.pruning import prune
from usage_worker.store.batch import batch_transaction
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import external_ids, id_of, keep_external_ids, keep_namespace

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from tests.integration.users import Users

OURS, THEIRS = UUID(int=1), UUID(int=2)
DEAD_LETTER = """
    INSERT INTO public.usage_dead_letters (entry_key, position, stream, entry_id, reason, payload)
    VALUES (gen_random_uuid(), 0, 's', '1-0', 'test', %s)
"""


def named(kind: str, text: str, namespace: UUID = OURS) -> ExternalId:
    return ExternalId(kind, uuid5(namespace, f"{kind}:{text}"), text)


def keep(store: Store, *rows: ExternalId) -> list[ExternalId]:
    with batch_transaction(store) as transaction:
        return transaction.keep_external_ids(rows)


def kept(database: str) -> set[ExternalId]:
    return {ExternalId(*row) for row in run(database, "SELECT kind, id, external_id FROM public.usage_external_ids")}


def test_ids_lead_both_ways(harness: IngestHarness, database: str) -> None:
    """With the role of the workers; text of other scripts, and 42 of each kind by itself."""
    store = harness.worker.store
    rows = [named("user", "42"), named("agent", "42"), named("conversation", "42"), named("user", "Zoë\t'\"\\ 🐘" * 20)]
    assert keep(store, *rows) == []
    assert kept(database) == set(rows)
    known = {rows[0].id: "42", rows[3].id: rows[3].external_id}
    with store.connection() as connection:
        assert external_ids(connection, "user", [rows[0].id, rows[1].id, rows[3].id, uuid4()]) == known
        assert [id_of(connection, "user", unknown) for unknown in ("43", "4\x002", "\udc42")] == [None] * 3
        assert [id_of(connection, it.kind, it.external_id) for it in rows] == [it.id for it in rows]
        for notation in (str(rows[0].id), f"{{{rows[0].id}}}".upper()):
            assert id_of(connection, "user", notation) == rows[0].id
    assert keep(store) == []


def test_known_ids_are_not_written_again(store: Store, database: str) -> None:
    rows = [named("user", str(number)) for number in range(100)]
    assert keep(store, *rows, *rows) == []
    places = "SELECT ctid, xmin, first_seen FROM public.usage_external_ids ORDER BY 1"
    before = run(database, places)
    with store.connection() as connection:
        assert keep_external_ids(connection, rows) == []
        written = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
    assert written == (None,)
    assert (run(database, places), len(before)) == (before, 100)


def test_ids_of_another_namespace_are_left_out(store: Store, database: str) -> None:
    ours, other = named("user", "42"), named("agent", "helper")
    assert keep(store, ours) == []
    theirs, forged = named("user", "42", THEIRS), ours._replace(external_id="43")
    assert set(keep(store, theirs, other, forged)) == {theirs, forged}
    assert kept(database) == {ours, other}
    both = [named("user", "7"), named("user", "7", THEIRS)]
    assert len(keep(store, *both)) == 1
    assert len(kept(database) & set(both)) == 1


@pytest.mark.parametrize("text", ["", "x" * 256])
def test_texts_of_another_length_are_refused(store: Store, database: str, text: str) -> None:
    with pytest.raises(DataRefusedError):
        keep(store, named("user", text))
    assert kept(database) == set()


def test_batches_with_common_ids_agree(database: str) -> None:
    """The second has the ids in another order, waits for the first, and has nothing for which the first would wait."""
    rows = sorted((named("user", str(number)) for number in range(50)), key=lambda it: it.external_id)
    with Store(database) as first, Store(database) as second, ThreadPoolExecutor(1) as pool:
        with first.connection() as connection:
            assert keep_external_ids(connection, rows[25:26]) == []
            waiting = pool.submit(keep, second, *reversed(rows))
            eventually(lambda: run(database, "SELECT pid FROM pg_locks WHERE NOT granted"))
            assert keep_external_ids(connection, rows[26:]) == []
        assert waiting.result(30) == []
    assert kept(database) == set(rows)


def test_first_namespace_is_kept(harness: IngestHarness, database: str) -> None:
    barrier = threading.Barrier(2)

    def start(namespace: UUID) -> UUID:
        with Store(str(harness.worker.settings.database_url)) as store:
            store.now()
            barrier.wait(30)
            return keep_namespace(store, namespace)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, (OURS, THEIRS))
    assert first == second
    assert keep_namespace(harness.worker.store, uuid4()) == first
    assert run(database, "SELECT namespace FROM public.usage_id_namespace") == [(first,)]


def test_ids_that_nothing_needs_are_deleted(store: Store, database: str, users: Users) -> None:
    conversation = uuid4()
    run(database, "SELECT public.track_agent_usage(%s, %s)", users.ann, users.agent)
    run(
        database,
        "INSERT INTO public.user_agent_conversations VALUES (%s, %s, %s)",
        users.ann,
        users.agent,
        conversation,
    )
    living = {
        ExternalId("user", users.ann, "ann"),
        ExternalId("agent", users.agent, "helper"),
        ExternalId("conversation", conversation, "talk"),
    }
    # An agent with the id of a user is another agent.
    gone = {named(kind, "gone") for kind in ("user", "agent", "conversation")} | {ExternalId("agent", users.ann, "ann")}
    needed = {named("user", "refused"), named("conversation", "refused")}
    payloads = [
        json.dumps({"user_id": str(named("user", "refused").id)}),
        # The fields of a whole entry: JSON in JSON.
        json.dumps(
            {"v": "1", "events": json.dumps([{"conversation_id": named("conversation", "refused").id.hex.upper()}])}
        ),
    ]
    for payload in payloads:
        run(database, DEAD_LETTER, payload)
    keep(store, *living, *gone, *needed)
    assert prune(store, timedelta(days=90)).deleted_ids == len(gone)
    assert kept(database) == living | needed
    run(database, "UPDATE public.usage_dead_letters SET created_at = now() - interval '91 days'")
    assert prune(store, timedelta(days=90)).as_dict() == {"deleted": 2, "deleted_ids": 2}
    assert kept(database) == living
    run(database, "DELETE FROM auth.users WHERE id = %s", users.ann)
    assert prune(store, timedelta(days=90)).deleted_ids == 2
    assert kept(database) == {ExternalId("agent", users.agent, "helper")}


def test_commands_take_and_show_own_ids(harness: IngestHarness, database: str, cli: Cli) -> None:
    user, agent = harness.users[0], harness.agents[0]
    event = {"user_id": user, "agent_id": agent, "event_id": uuid4(), "occurred_at": datetime.now(UTC)}
    harness.publish(event, event | {"event_id": uuid4(), "user_id": harness.users[1]})
    harness.flush()
    keep(
        harness.worker.store,
        ExternalId("user", user, "Zoë 42"),
        ExternalId("agent", agent, "helper"),
        ExternalId("agent", user, "other"),
    )
    days = [json.loads(cli.run("report", "--days", "2", "--json", "--user", it).stdout) for it in ("Zoë 42", user.hex)]
    assert [sum(day["usage_count"] for day in it) for it in days] == [1, 1]
    assert cli.error_lines("report --user 43") == [
        "usage-worker: an argument is wrong: no event has named the user '43'"
    ]
    run(database, "UPDATE public.user_agents SET usage_count = 0 WHERE user_id = %s", user)
    own = {"agent": {str(agent): "helper", str(user): "other"}, "user": {str(user): "Zoë 42"}}
    lines = [f"{kind} {uuid}\t{own[kind][uuid]}" for kind in own for uuid in own[kind]]
    assert cli.run("run", "reconcile").stdout.splitlines()[1:-1] == lines
    assert json.loads(cli.run("run", "reconcile", "--json").stdout)["external_ids"] == own
    run(
        database,
        DEAD_LETTER,
        json.dumps({"user_id": str(user), "agent_id": agent.hex, "occurred_at": f"{datetime.now(UTC)}"}),
    )
    shown = cli.run("dead-letters", "show", "1").stdout.splitlines()
    assert shown[-3:] == lines
    document = json.loads(cli.run("dead-letters", "show", "1", "--json").stdout)
    assert document["external_ids"] == own
    cli.env["USAGE_IDS"] = "uuid5"
    assert cli.run("dead-letters", "replay", "1", "--set", "user_id=Bob 7", "--json").returncode == 0
    entries: list[Any] = [harness.redis.xrange(f"usage:events:{{{shard}}}") for shard in range(2)]
    ((_, fields),) = chain(*entries)
    assert json.loads(fields[b"ids"]) == {"user": {uuid_of("user", "Bob 7").hex: "Bob 7"}}
