"""Harnesses on the fast servers of the session, and durable servers that tests may kill."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.harness import Harness
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def harness(database: str, redis_url: str) -> Iterator[Harness]:
    with closing(Harness(database, redis_url)) as harness:
        yield harness


@pytest.fixture(scope="package")
def durable_postgres(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """Start a durable PostgreSQL that tests may restart and kill."""
    with EmbeddedPostgres(server_folder / "durable-postgres") as server:
        Runner(server.ensure_database("template")).up()
        yield server


@pytest.fixture(scope="package")
def durable_valkey(server_folder: Path) -> Iterator[EmbeddedValkey]:
    """Start a Valkey with an append-only file that tests may restart and kill."""
    with EmbeddedValkey(server_folder / "durable-valkey") as server:
        yield server


@pytest.fixture
def durable_database(durable_postgres: EmbeddedPostgres) -> Iterator[str]:
    """Return the URL of a new database with the newest schema on the durable server."""
    with psycopg.connect(durable_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE durable TEMPLATE template")
    yield durable_postgres.url("durable")
    with psycopg.connect(durable_postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE durable WITH (FORCE)")
