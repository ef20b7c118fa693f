"""No API key takes everything of a process: the requests of the others are answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.asgi import Answer, ask
from tests.integration.database import run
from tests.integration.service import EVENT, JSON, Service, serving
from usage_worker.http import create_app
from usage_worker.http.events import MAX_IN_FLIGHT
from usage_worker.http.keys import ApiKey, Right, make_key
from usage_worker.http.report_source import MAX_REPORTS
from usage_worker.http.usage import MAX_READERS
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITERS = [make_key(f"writer{number}", Right.WRITE) for number in range(3)]
READERS = [make_key(f"reader{number}", Right.READ) for number in range(2)]
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path, redis_url, USAGE_API_KEYS=setting(WRITERS)) as service:
        yield service


def setting(keys: list[tuple[str, ApiKey]]) -> str:
    return ",".join(str(entry) for _, entry in keys)


def begun(service: Service, key: str) -> socket.socket:
    """Return a connection whose request has a body that never comes to its end by itself."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    head = f"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: 2\r\n"
    connection.sendall(f"{head}Authorization: Bearer {key}\r\nExpect: 100-continue\r\n\r\n".encode())
    return connection


def ended(connection: socket.socket) -> int:
    """Return the status of the request, whose body ends now."""
    connection.sendall(b"[]")
    return int(connection.recv(1_000).split()[1])


def is_reading(connection: socket.socket) -> bool:
    """Whether the service reads the body: it holds a place then; else it has refused the request."""
    return connection.recv(1_000).startswith(b"HTTP/1.1 100")


def held(service: Service, key: str, stack: ExitStack) -> list[socket.socket]:
    """Send requests with slow bodies until one is refused; return the others."""
    connections: list[socket.socket] = []
    while True:
        connection = stack.enter_context(closing(begun(service, key)))
        if not is_reading(connection):
            return connections
        connections.append(connection)
        assert len(connections) < MAX_IN_FLIGHT, "one key takes every place"


def test_slow_bodies_of_one_key_leave_places_for_others(service: Service) -> None:
    with ExitStack() as stack:
        keys = [key for key, _ in WRITERS]
        slow = [held(service, key, stack) for key in keys[:2]]
        assert [len(connections) for connections in slow] == [MAX_IN_FLIGHT // 2, MAX_IN_FLIGHT // 4]
        reply = service.post(EVENT, key=keys[0])
        assert (reply.status, reply.headers["Retry-After"], reply.json["accepted"]) == (429, "1", 0)
        assert service.post(EVENT, key=keys[2]).status == 202
        assert {ended(connection) for connections in slow for connection in connections} == {202}
        eventually(lambda: service.post(EVENT, key=keys[0]).status == 202)


def test_without_keys_every_place_may_be_taken(redis_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, redis_url, USAGE_API_KEYS="") as service, ExitStack() as stack:
        for _ in range(MAX_IN_FLIGHT):
            assert is_reading(stack.enter_context(closing(begun(service, ""))))
        assert service.post(EVENT, key="").status == 429


def asked(redis_url: str, database: str, path: str, number: int) -> tuple[Answer, list[bool]]:
    """Send so many requests with the first key, which wait for a lock, and then one with the second key.

    Each gives up its lock after a second. Returns the answer to the second key, and which others had theirs by then.
    """
    settings = Settings(REDIS_URL=redis_url, DATABASE_URL=database, api_keys=setting(READERS))
    (first, _), (second, _) = READERS

    async def answered() -> tuple[Answer, list[bool]]:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            others = [asyncio.create_task(ask(app, "GET", path, key=first)) for _ in range(number)]
            await asyncio.to_thread(eventually, lambda: len(run(database, WAITING)) >= 2)
            answer = await ask(app, "GET", path, key=second)
            are_done = [other.done() for other in others]
            connection.rollback()
            await asyncio.gather(*others)
            return answer, are_done

    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE usage_events, usage_daily, agent_usage_hourly IN ACCESS EXCLUSIVE MODE")
        return asyncio.run(answered())


def test_totals_for_one_key_do_not_wait_for_those_of_another(redis_url: str, database: str) -> None:
    number = 4 * MAX_READERS
    _, are_done = asked(redis_url, database, "/api/v1/usage", number)
    assert sum(are_done) < number // 2


def test_one_key_does_not_take_every_report(redis_url: str, database: str) -> None:
    answer, _ = asked(redis_url, database, "/", 2 * MAX_REPORTS)
    assert b"other reports are being computed" not in answer.body
