"""One transaction that is never committed holds the world of a module's tests; what a test does in it is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.access.world import populate
from tests.conftest import _new_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.access.world import Connection
    from tests.conftest import Postgres


@pytest.fixture(scope="module")
def populated(postgres: Postgres, template_database: str) -> Iterator[Connection]:
    with _new_database(postgres, template_database) as name, psycopg.connect(postgres.url(name)) as connection:
        populate(connection)
        yield connection
        connection.rollback()


@pytest.fixture
def world(populated: Connection) -> Iterator[Connection]:
    with populated.transaction(force_rollback=True):
        yield populated
