"""Policies evaluate `auth.uid()` once per statement, not once per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from tests.access.sample import OWNER, ROLES, act_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.access.sample import Connection

ONCE = "( SELECT auth.uid() AS uid)"
MANY = """
INSERT INTO auth.users (id) SELECT gen_random_uuid() FROM generate_series(1, 50);
INSERT INTO public.user_profiles (id) SELECT id FROM auth.users ON CONFLICT DO NOTHING;
INSERT INTO public.agents (name, created_by) SELECT 'mine', %(owner)s FROM generate_series(1, 50);
INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users AS u, public.agents AS a
    ON CONFLICT DO NOTHING;
INSERT INTO public.user_role_assignments (user_id, team_id) SELECT id, gen_random_uuid() FROM auth.users;
"""


class Policy(NamedTuple):
    """A policy that calls `auth.uid()`; `column` is one that the user may update."""

    name: str
    table: str
    commands: list[str]
    using: str
    check: str
    column: str


@pytest.fixture
def policies(connection: Connection) -> list[Policy]:
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(MANY.encode(), {"owner": OWNER})
    found = connection.execute(
        """
        SELECT polname, sql_name,
               CASE polcmd WHEN 'r' THEN '{select}' WHEN 'a' THEN '{insert}' WHEN 'w' THEN '{update}'
                    WHEN 'd' THEN '{delete}' ELSE '{select,insert,update,delete}' END::text[],
               coalesce(pg_get_expr(polqual, polrelid), ''), coalesce(pg_get_expr(polwithcheck, polrelid), ''),
               (
                   SELECT part FROM unnest(parts) AS part
                    WHERE part <> ALL (key || users) AND has_column_privilege('authenticated', polrelid, part, 'UPDATE')
                    LIMIT 1
               )
          FROM pg_policy JOIN objects ON objects.oid = polrelid
         WHERE concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) LIKE '%uid()%'
         ORDER BY 2, 1
        """
    )
    return [Policy(*row) for row in found]


def evaluations(connection: Connection, policy: Policy, command: str) -> tuple[set[int], list[str]]:
    """Return how often the InitPlans that evaluate the user ran, and the other nodes that evaluate it."""
    statements = {
        "select": f"SELECT * FROM {policy.table}",
        # The check of a new row is in no node of the plan; only its InitPlan is shown.
        "insert": f"INSERT INTO {policy.table} ({policy.column}) VALUES (DEFAULT)",
        "update": f"UPDATE {policy.table} SET {policy.column} = {policy.column}",
        "delete": f"DELETE FROM {policy.table}",
    }
    analyze = "" if command == "insert" else "ANALYZE, TIMING OFF, "
    with connection.transaction(force_rollback=True):
        act_as(connection, ROLES["owner"])
        # An index scan evaluates the user once, whatever the policy looks like.
        connection.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
        explain = f"EXPLAIN ({analyze}VERBOSE, FORMAT JSON) {statements[command]}"
        row = connection.execute(explain.encode()).fetchone()
    assert row
    runs: set[int] = set()
    others: list[str] = []
    for node in _nodes(row[0][0]["Plan"]):
        own = str({key: value for key, value in node.items() if key != "Plans"})
        if "request.jwt.claim" in own or "auth.uid()" in own:
            if node.get("Parent Relationship") == "InitPlan":
                runs.add(node.get("Actual Loops", 1))
            elif command != "insert":  # in an INSERT it may be the default of a column
                others.append(own)
    return runs, others


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def test_policies_evaluate_user_once_per_statement(connection: Connection, policies: list[Policy]) -> None:
    assert len(policies) >= 12
    for policy in policies:
        assert "uid()" not in (policy.using + policy.check).replace(ONCE, ""), policy
        for command in policy.commands:
            runs, others = evaluations(connection, policy, command)
            assert max(runs) == 1, (policy, command)
            assert others == [], (policy, command)


def test_policy_that_evaluates_user_per_row_is_detected(connection: Connection, policies: list[Policy]) -> None:
    for policy in policies:
        changes = (("USING", policy.using), ("WITH CHECK", policy.check))
        clauses = " ".join(f"{word} ({text.replace(ONCE, 'auth.uid()')})" for word, text in changes if text)
        with connection.transaction(force_rollback=True):
            connection.execute(f'ALTER POLICY "{policy.name}" ON {policy.table} {clauses}'.encode())
            runs, others = evaluations(connection, policy, policy.commands[0])
            assert others or not runs, policy


def test_policy_of_external_ids_reads_by_index(connection: Connection) -> None:
    """Neither all ids nor all agents are read for one user's, although the policy asks for three kinds."""
    connection.execute(
        """
        INSERT INTO public.agents (name) SELECT 'other' FROM generate_series(1, 2000);
        INSERT INTO public.usage_external_ids (kind, id, external_id)
            SELECT kind, gen_random_uuid(), place::text
              FROM unnest(ARRAY['user', 'conversation']) AS kind, generate_series(1, 5000) AS place;
        INSERT INTO public.usage_external_ids (kind, id, external_id)
            SELECT 'agent', id, id::text FROM public.agents LIMIT 9;
        ANALYZE public.usage_external_ids, public.agents;
        """
    )
    act_as(connection, ROLES["owner"])
    plan = "\n".join(row[0] for row in connection.execute("EXPLAIN SELECT * FROM public.usage_external_ids"))
    assert "Index Scan using agents_pkey on agents" in plan
    assert "Seq Scan" not in plan
    assert "hashed" not in plan


def test_policy_of_relations_reads_agents_by_index(connection: Connection) -> None:
    """Two look-ups for each relation of an agent: all agents are read for none."""
    connection.execute(
        """
        INSERT INTO public.agents (name) SELECT 'other' FROM generate_series(1, 2000);
        INSERT INTO public.agent_relationships (source_id, target_id, kind, weight, users)
            SELECT s.id, t.id, 'used_with', 0.5, 10
              FROM (SELECT id FROM public.agents ORDER BY id LIMIT 50) s, (SELECT id FROM public.agents LIMIT 50) t
             WHERE s.id <> t.id
            ON CONFLICT DO NOTHING;
        ANALYZE public.agent_relationships, public.agents;
        """
    )
    act_as(connection, ROLES["owner"])
    statement = "EXPLAIN SELECT * FROM public.agent_relationships WHERE source_id = %s ORDER BY weight DESC LIMIT 10"
    plan = "\n".join(row[0] for row in connection.execute(statement, [OWNER]))
    assert plan.count("Index Scan using agents_pkey on agents") == 2
    assert "Seq Scan" not in plan
    assert "hashed" not in plan
