"""Sample data in one transaction per test module, which is rolled back; each test runs in a savepoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.access.sample import populate
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.access.sample import Connection
    from tests.servers import Postgres


@pytest.fixture(scope="module")
def populated(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[Connection]:
    """Yield a connection to a new database with the sample data, shared by a module."""
    with new_database(postgres, template_database()) as name, psycopg.connect(postgres.url(name)) as connection:
        populate(connection)
        yield connection
        connection.rollback()


@pytest.fixture
def connection(populated: Connection) -> Iterator[Connection]:
    """Yield the connection to the sample data; changes of the test are rolled back."""
    with populated.transaction(force_rollback=True):
        yield populated
