"""Ids of an application's own over HTTP, from a client to the ledger and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.service import Service, serving
from tests.integration.test_http_usage import asked
from tests.integration.test_poison_celery import running_worker
from usage_worker.events.external_ids import KINDS, uuid_of
from usage_worker.http.openapi import openapi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import IngestHarness

KEPT = "SELECT kind, id, external_id FROM public.usage_external_ids ORDER BY kind, external_id"
CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "/chat", "type": "usage", "subject": "42"}
# 32 digits in groups of four: Python takes it for a UUID, and no publisher does.
NUMBER = "0000-1111-2222-3333-4444-5555-6666-7777"


@pytest.fixture
def service(database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path, redis_url, DATABASE_URL=database, USAGE_IDS="uuid5") as service:
        yield service


def insert_parents(database: str, users: list[Any], agents: list[Any]) -> None:
    for user in users:
        run(database, "INSERT INTO auth.users (id) VALUES (%s)", uuid_of("user", user))
    for agent in agents:
        run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'x')", uuid_of("agent", agent))


def counts(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in (*columns, "usage_count")) for row in rows]


def test_client_gets_back_the_ids_that_it_sent(service: Service, harness: IngestHarness, database: str) -> None:
    assert service.send("GET", "/openapi.json").json == openapi("", any_id=True)
    plain = str(uuid4())
    insert_parents(database, [42, NUMBER, plain, "Zoë"], ["support-bot", plain])
    pair = {"user_id": 42, "agent_id": "support-bot"}
    events = [
        {**pair, "conversation_id": 7},
        {**pair, "user_id": "42"},
        {**pair, "user_id": str(uuid_of("user", 42)), "agent_id": plain},
        {**pair, "user_id": NUMBER},
        {**pair, "user_id": plain},
        {**pair, "user_id": str(uuid_of("user", "Zoë"))},
    ]
    assert service.post(events).json == {"accepted": 6, "refused": []}
    cloud = {**CLOUD_EVENT, "data": {"agent_id": "support-bot"}}
    assert service.post(cloud, "application/cloudevents+json").json == {"accepted": 1, "refused": []}
    with running_worker(harness, "solo"):
        eventually(lambda: harness.resources.store.intake_totals().accepted == 7, 60)
    texts = {"user": [NUMBER, "42"], "agent": ["support-bot"], "conversation": ["7"]}
    assert run(database, KEPT) == [(kind, uuid_of(kind, it), it) for kind in sorted(KINDS) for it in texts[kind]]

    expected = [("42", "support-bot", 3), ("42", plain, 1), (plain, "support-bot", 1), (NUMBER, "support-bot", 1)]
    # Of a user whom events named by the UUID alone, nothing else is known.
    expected.append((str(uuid_of("user", "Zoë")), "support-bot", 1))
    rows = counts(asked(service, group_by="user,agent"), "user_id", "agent_id")
    assert rows == sorted(expected, key=lambda it: (uuid_of("user", it[0]), uuid_of("agent", it[1])))
    found: dict[str, list[tuple[object, int]]] = {
        "user_id": [("42", 4), (uuid_of("user", 42), 4), (NUMBER, 1), (plain, 1), ("Zoë", 1), ("43", 0)],
        "agent_id": [("support-bot", 6), (plain, 1), ("42", 0)],
    }
    for given, uses in found.items():
        for one, count in uses:
            assert counts(asked(service, **{given: one})) == [(count,)] * bool(count), one
    by_model = asked(service, user_id=42, agent_id="support-bot", group_by="agent,model")
    assert counts(by_model, "agent_id") == [("support-bot", 3)]

    for wrong in ("", "4%00", "x" * 256):
        reply = service.usage(f"agent_id={wrong}")
        assert (reply.status, reply.json["field"]) == (400, "agent_id"), wrong
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE public.usage_external_ids")
        assert service.usage("user_id=42").status == 503


def test_service_without_the_setting_reads_ids_that_are_kept(
    harness: IngestHarness, database: str, redis_url: str, tmp_path: Path
) -> None:
    """Its publishers alone may have it. What is neither kept nor a UUID is a mistake there."""
    user = harness.users[0]
    run(database, "INSERT INTO public.usage_external_ids VALUES ('user', %s, '42')", user)
    harness.publish({"user_id": user, "agent_id": harness.agents[0]}, counted=False)
    harness.flush()
    with serving(tmp_path, redis_url, DATABASE_URL=database) as service:
        assert counts(asked(service, user_id=42, group_by="user"), "user_id") == [("42", 1)]
        reply = service.usage("user_id=43")
        assert (reply.status, reply.json["field"]) == (400, "user_id")
        assert service.post({"user_id": 42, "agent_id": str(UUID(int=1))}).status == 400
        assert service.send("GET", "/openapi.json").json == openapi("", any_id=False)
