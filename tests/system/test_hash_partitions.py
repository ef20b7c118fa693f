"""What docs/adr/0007 says of `user_agents` in hash partitions by user, tried on a copy: it counts, exactly and HOT."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.sql import query

if TYPE_CHECKING:
    from collections.abc import Iterator

LACKS_USER = "unique constraint on partitioned table must include all partitioning columns"
REFUSED = {
    "CREATE TABLE parts (LIKE user_agents INCLUDING ALL) PARTITION BY HASH (user_id)": LACKS_USER,
    "CREATE TABLE parts (LIKE usage_events INCLUDING ALL) PARTITION BY HASH (user_id)": LACKS_USER,
    "CREATE TABLE parts (LIKE user_agent_history INCLUDING ALL) PARTITION BY HASH (user_id)": LACKS_USER,
    "CREATE TABLE parts PARTITION OF usage_events FOR VALUES FROM ('2031-01-01') TO ('2031-01-02')"
    " PARTITION BY HASH (user_id)": LACKS_USER,
    "CREATE TABLE parts (LIKE usage_entries INCLUDING ALL) PARTITION BY HASH (user_id)": 'column "user_id" named in',
    "CREATE TABLE parts (LIKE usage_event_keys INCLUDING ALL) PARTITION BY HASH (user_id)": 'column "user_id" named in',
    "CREATE TABLE parts (user_id uuid) PARTITION BY HASH (user_id) WITH (fillfactor = 50)": "parameter",
}
TAKEN = ("usage_daily", "usage_retired_daily", "user_agent_conversations")


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("statement", REFUSED)
def test_constraint_without_the_user_is_refused(connection: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error, match=REFUSED[statement]):
        connection.execute(statement.encode())


def test_tables_whose_keys_have_the_user_are_taken(connection: psycopg.Connection) -> None:
    for table in TAKEN:
        connection.execute(
            f"CREATE TABLE parts_{table} (LIKE {table} INCLUDING ALL) PARTITION BY HASH (user_id)".encode()
        )


def test_user_agents_in_hash_partitions_are_counted(
    connection: psycopg.Connection, database: str, redis_url: str
) -> None:
    with closing(Harness(database, redis_url)) as harness:
        harness.publish(harness.traffic(300))
        harness.drain()
        for statement in query("hash_partitions").split(";\n\n"):
            connection.execute(statement)
        harness.reconnect()
        for seed in range(2, 6):
            harness.publish(harness.traffic(300, seed=seed, mix="production"))
            harness.drain()
        harness.check()
    # Before 16, an index of the kind BRIN on a counter makes each update one of all indexes, too.
    if connection.info.server_version >= 160_000:
        eventually(lambda: hot_share(connection) > 0.9, 20)
    used = connection.execute("SELECT count(DISTINCT tableoid) FROM user_agents").fetchone()
    assert used == (4,)


def hot_share(connection: psycopg.Connection) -> float:
    """Return the share of HOT updates of all partitions, 0 until the statistics have any."""
    row = connection.execute(query("hot_share_of_parts")).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0
