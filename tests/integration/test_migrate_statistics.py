"""After an upgrade of existing rows the planner knows their columns, and indexes of JSON serve keys and contents."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.database import add_pair, run
from usage_worker.migrate import Runner

# Tables with rows, and their columns that have no statistics.
UNKNOWN = """
    SELECT c.relname, a.attname
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.oid = ANY (%s::regclass[]) AND NOT EXISTS (
        SELECT FROM pg_statistic AS s WHERE s.starelid = c.oid AND s.staattnum = a.attnum)
"""
TABLES = ["user_agents", "usage_daily", "user_agent_shares", "user_agent_analytics"]


def test_new_columns_have_statistics_after_each_upgrade(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    row = add_pair(empty_database)
    runner.up("3.0.0")
    # Otherwise autovacuum might do it.
    run(empty_database, "ALTER TABLE user_agents SET (autovacuum_enabled = off)")
    assert run(empty_database, UNKNOWN, TABLES[:1]) == []
    share = "UPDATE user_agents SET usage_count = 1, is_shared = true, team_id = gen_random_uuid() WHERE id = %s"
    run(empty_database, share, row)
    for _ in range(2):
        runner.up()
        assert run(empty_database, UNKNOWN, TABLES) == []
        runner.down("3.0.0")


@pytest.mark.parametrize("column", ["settings", "preferences", "metadata"])
@pytest.mark.parametrize("condition", ["? 'a'", "?| '{a,b}'", "@> '{\"a\": 1}'"])
def test_index_serves_keys_and_contents(database: str, column: str, condition: str) -> None:
    with psycopg.connect(database) as connection:
        # The table is empty: reading it whole would be cheaper.
        connection.execute("SET enable_seqscan = off")
        query = f"EXPLAIN SELECT FROM user_agents WHERE {column} {condition}"
        plan = "\n".join(line for (line,) in connection.execute(query.encode()).fetchall())
    assert f"idx_user_agents_{column}" in plan
