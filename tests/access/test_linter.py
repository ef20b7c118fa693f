"""The rules of the platform's linter hold, or are waived here with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usage_worker.queries import Queries

if TYPE_CHECKING:
    from tests.access.sample import Connection

RULES = Queries("tests.access")

ONE_REASON_EACH = "a policy for each reason of access; PostgreSQL evaluates the same conditions if one policy has both"

WAIVED = {
    "no_primary_key": {
        "agent_usage_hour_marks": "batches that mark the same hour would wait for one another's commit",
    },
    "multiple_permissive_policies": {
        "agents: select by authenticated": ONE_REASON_EACH,
        "user_agent_shares: select by authenticated": ONE_REASON_EACH,
        "user_agents: select by authenticated": ONE_REASON_EACH,
        "user_agents: update by authenticated": ONE_REASON_EACH,
    },
    "security_definer_view": {
        "user_agent_analytics_own": "the materialized view has no row-level security; the view has its condition and"
        " security_barrier, and test_analytics.py tries to pass them by",
    },
    "function_search_path_mutable": {
        "calculate_agent_quality_score": "its body was bound at creation; SET would keep it from being inlined",
        "uid": "its body was bound at creation; SET would keep it from being inlined",
        "usage_latency_bucket": "its body was bound at creation; SET would keep it from being inlined",
        "usage_latency_value": "its body was bound at creation; SET would keep it from being inlined",
        "user_agents_editable_columns": "its body was bound at creation; it names nothing",
    },
    "security_definer_function_executable": {
        "track_agent_usage": "writes the ledger, which users may not; it compares the user with auth.uid() itself",
        "usage_own_conversation_ids": "returns the conversations of auth.uid(), whose table users may not read",
        "user_agents_received": "reads rows that are shared with auth.uid(), without their notes",
        "edit_shared_agent": "changes listed columns of rows that user_agent_ids_shared_with_me names for auth.uid()",
        "accept_share": "marks a share that auth.uid() receives; users may not write the marks",
        "decline_share": "marks a share that auth.uid() receives; users may not write the marks",
    },
}


@pytest.mark.parametrize("rule", RULES.texts)
def test_rule_holds_or_is_waived(connection: Connection, rule: str) -> None:
    found = {str(name) for (name,) in connection.execute(RULES(rule)).fetchall()}
    assert found == set(WAIVED.get(rule, {}))


@pytest.mark.parametrize(
    ("rule", "breach", "name"),
    [
        (
            "unindexed_foreign_keys",
            "ALTER TABLE agents ADD breach uuid REFERENCES auth.users",
            "agents.agents_breach_fkey",
        ),
        (
            "auth_rls_initplan",
            "ALTER POLICY agents_select_own ON agents USING (created_by = auth.uid())",
            "agents.agents_select_own",
        ),
        ("no_primary_key", "ALTER TABLE usage_entries DROP CONSTRAINT usage_entries_pkey", "usage_entries"),
        (
            "no_replica_identity",
            "ALTER TABLE agent_usage_hour_marks REPLICA IDENTITY DEFAULT",
            "agent_usage_hour_marks",
        ),
        ("no_replica_identity", "ALTER TABLE usage_daily REPLICA IDENTITY NOTHING", "usage_daily"),
        (
            "multiple_permissive_policies",
            "CREATE POLICY breach ON usage_daily TO anon; CREATE POLICY breach_2 ON usage_daily TO anon",
            "usage_daily: delete by anon",
        ),
        ("row_level_security", "ALTER TABLE usage_daily DISABLE ROW LEVEL SECURITY", "usage_daily"),
        (
            "row_level_security",
            "DROP POLICY usage_retired_daily_service_role ON usage_retired_daily",
            "usage_retired_daily",
        ),
        (
            "rls_policy_always_true",
            "CREATE POLICY breach ON agents FOR DELETE TO authenticated USING (true)",
            "agents.breach",
        ),
        ("duplicate_index", "CREATE INDEX breach ON agents (created_by)", "breach = idx_agents_created_by"),
        (
            "invalid_index",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_agents_created_by'::regclass",
            "idx_agents_created_by",
        ),
        (
            "security_definer_view",
            "CREATE VIEW breach AS SELECT 1 AS one; GRANT SELECT ON breach TO anon",
            "breach",
        ),
        ("materialized_view_in_api", "GRANT SELECT ON user_agent_analytics TO anon", "user_agent_analytics"),
        ("function_search_path_mutable", "ALTER FUNCTION add_user_agent RESET search_path", "add_user_agent"),
        ("security_definer_function_executable", "ALTER FUNCTION add_user_agent SECURITY DEFINER", "add_user_agent"),
        ("extension_in_public", "UPDATE pg_extension SET extnamespace = 'public'::regnamespace", "plpgsql"),
        ("auth_users_exposed", "CREATE VIEW breach AS SELECT id FROM auth.users", "breach"),
        ("autovacuum_disabled", "ALTER TABLE agents SET (autovacuum_enabled = off)", "agents"),
    ],
)
def test_rule_sees_breach(connection: Connection, rule: str, breach: str, name: str) -> None:
    connection.execute("SET LOCAL search_path = public")
    connection.execute(breach.encode())
    connection.execute("SET LOCAL search_path = pg_catalog")
    assert (name,) in connection.execute(RULES(rule)).fetchall()
