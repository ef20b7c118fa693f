"""`migrate verify` names every missing, different or unexpected object."""

from __future__ import annotations

import pytest

from tests.integration.database import run
from usage_worker.errors import SchemaError
from usage_worker.migrate import Runner, discover
from usage_worker.migrate.connection import connect
from usage_worker.migrate.verify import deviations


@pytest.mark.parametrize(
    ("damage", "kind", "name", "problem"),
    [
        ("ALTER TABLE user_agents DROP COLUMN notes CASCADE", "column", "user_agents.notes", "missing"),
        (
            "ALTER TABLE user_agents ALTER quick_notes SET NOT NULL",
            "column",
            "user_agents.quick_notes",
            "is text not null, expected text",
        ),
        (
            "ALTER TABLE user_agents ALTER status SET DEFAULT 'paused'",
            "column",
            "user_agents.status",
            "is text default 'paused'::text, expected text default 'active'::text",
        ),
        (
            "DROP VIEW user_agents_with_details, user_favorite_agents, user_popular_agents, user_recent_agents;"
            " ALTER TABLE user_agents ALTER first_used_at TYPE date",
            "column",
            "user_agents.first_used_at",
            "is date",
        ),
        ("ALTER TABLE usage_events DROP COLUMN provider", "column", "usage_events.provider", "missing"),
        (
            "ALTER TABLE usage_daily ALTER reasoning_tokens DROP NOT NULL",
            "column",
            "usage_daily.reasoning_tokens",
            "is bigint default 0, expected bigint not null default 0",
        ),
        (
            "ALTER TABLE usage_events ADD provider_kept_4_2_0 text",
            "column",
            "usage_events.provider_kept_4_2_0",
            "unexpected: text",
        ),
        ("ALTER TABLE user_agents ADD extra int", "column", "user_agents.extra", "unexpected: integer"),
        (
            "ALTER TABLE agent_usage_hour_marks REPLICA IDENTITY DEFAULT",
            "replica identity",
            "agent_usage_hour_marks",
            "missing",
        ),
        ("ALTER TABLE usage_daily SET UNLOGGED", "table", "usage_daily", "row-level security on, unlogged"),
        (
            "CREATE RULE keep AS ON DELETE TO user_agents DO INSTEAD NOTHING",
            "rule",
            "user_agents.keep",
            "unexpected: CREATE RULE keep",
        ),
        (
            "ALTER TABLE user_agents DISABLE TRIGGER ALL",
            "constraint",
            "user_agents.user_agents_user_id_fkey",
            "is disabled FOREIGN KEY (user_id)",
        ),
        (
            "ALTER TABLE auth.users DISABLE TRIGGER ALL",
            "constraint",
            "user_agents.user_agents_user_id_fkey",
            "is disabled FOREIGN KEY (user_id)",
        ),
        ("DROP INDEX idx_user_agents_team", "index", "idx_user_agents_team", "missing"),
        (
            "DROP INDEX idx_user_agents_team; CREATE INDEX idx_user_agents_team ON user_agents (id)",
            "index",
            "idx_user_agents_team",
            "is CREATE INDEX",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_user_agents_team'::regclass",
            "index",
            "idx_user_agents_team",
            "is invalid CREATE INDEX",
        ),
        ("CREATE INDEX slow ON user_agents (total_tokens_used)", "index", "slow", "unexpected: CREATE INDEX"),
        (
            "ALTER TABLE user_agents DROP CONSTRAINT user_agents_status_check",
            "constraint",
            "user_agents.user_agents_status_check",
            "missing",
        ),
        (
            'DROP POLICY "Users can delete their own agent relationships" ON user_agents',
            "policy",
            "user_agents.Users can delete their own agent relationships",
            "missing",
        ),
        (
            'ALTER POLICY "Users can view their own agent relationships" ON user_agents USING (true)',
            "policy",
            "user_agents.Users can view their own agent relationships",
            "is select to authenticated using true",
        ),
        (
            "CREATE POLICY open ON user_agents FOR SELECT TO anon USING (true)",
            "policy",
            "user_agents.open",
            "unexpected: select to anon",
        ),
        (
            "ALTER TABLE user_agents DISABLE ROW LEVEL SECURITY",
            "table",
            "user_agents",
            "row-level security off",
        ),
        (
            "ALTER FUNCTION restore_user_agent SECURITY DEFINER",
            "function",
            "restore_user_agent(p_user_id uuid, p_agent_id uuid)",
            "security definer",
        ),
        (
            "ALTER FUNCTION restore_user_agent RESET search_path",
            "function",
            "restore_user_agent(p_user_id uuid, p_agent_id uuid)",
            "security invoker, body",
        ),
        (
            "CREATE OR REPLACE FUNCTION calculate_agent_quality_score(p_user_rating numeric, p_usage_count bigint,"
            " p_success_count bigint, p_error_count bigint) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN 5.0",
            "function",
            "calculate_agent_quality_score(p_user_rating numeric, p_usage_count bigint, p_success_count bigint,"
            " p_error_count bigint)",
            "expected returns numeric, sql, immutable, security invoker, body",
        ),
        (
            "CREATE FUNCTION add_user_agent(uuid) RETURNS void LANGUAGE sql AS ''",
            "function",
            "add_user_agent(uuid)",
            "unexpected",
        ),
        (
            "GRANT EXECUTE ON FUNCTION restore_user_agent TO PUBLIC",
            "grant",
            "function restore_user_agent(p_user_id uuid, p_agent_id uuid) to public",
            "unexpected: execute",
        ),
        (
            "CREATE TABLE old PARTITION OF usage_events FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')",
            "partition",
            "public.old",
            "is row-level security off, expected row-level security on",
        ),
        (
            "SELECT user_agent_history_ensure_month('2001-01-01');"
            " GRANT SELECT ON user_agent_history_200101 TO anon, PUBLIC",
            "partition",
            "public.user_agent_history_200101",
            "is row-level security on, granted to anon, public, expected row-level security on",
        ),
        (
            "SELECT agent_usage_hourly_ensure_month('2001-01-01');"
            " GRANT UPDATE (hour) ON agent_usage_hourly_200101 TO usage_ingest",
            "partition",
            "public.agent_usage_hourly_200101",
            "is row-level security on, granted to usage_ingest, expected",
        ),
        (
            'CREATE SCHEMA archive; CREATE TABLE archive."Old" PARTITION OF usage_events'
            " FOR VALUES FROM ('2001-01-01') TO ('2001-01-02') PARTITION BY HASH (event_id);"
            ' ALTER TABLE archive."Old" ENABLE ROW LEVEL SECURITY;'
            ' CREATE TABLE part PARTITION OF archive."Old" FOR VALUES WITH (MODULUS 1, REMAINDER 0)',
            "partition",
            "public.part",
            "is row-level security off",
        ),
        ("GRANT SELECT ON user_agents TO anon", "grant", "table user_agents to anon", "unexpected: select"),
        (
            "ALTER VIEW user_recent_agents RESET (security_invoker)",
            "view",
            "user_recent_agents",
            "is view, query",
        ),
        (
            "ALTER VIEW user_recent_agents RENAME COLUMN agent_name TO name",
            "view",
            "user_recent_agents",
            "expected view",
        ),
        ("DROP VIEW user_popular_agents", "view", "user_popular_agents", "missing"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "schema", "create on public to public", "unexpected: granted"),
        ("GRANT CREATE ON SCHEMA public TO anon", "schema", "create on public to anon", "unexpected: granted"),
        (
            "ALTER TABLE usage_entries RESET (autovacuum_vacuum_cost_limit)",
            "table",
            "usage_entries",
            "is table, row-level security on, autovacuum_vacuum_scale_factor=0.05, expected",
        ),
        ("DROP TRIGGER agents_updated_at ON agents", "trigger", "agents.agents_updated_at", "missing"),
        (
            "ALTER TABLE user_agents DISABLE TRIGGER user_agents_updated_at",
            "trigger",
            "user_agents.user_agents_updated_at",
            "is disabled",
        ),
        (
            "DROP TRIGGER user_agents_auto_quality ON user_agents",
            "trigger",
            "user_agents.user_agents_auto_quality",
            "missing",
        ),
    ],
)
def test_verify_names_each_deviation(database: str, damage: str, kind: str, name: str, problem: str) -> None:
    runner = Runner(database)
    before = runner.verify()
    run(database, damage)
    found = [deviation for deviation in runner.verify() if deviation not in before]
    assert [d for d in found if (d.kind, d.object) == (kind, name) and problem in d.problem], found


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize(
    ("grant", "problem"),
    [
        ("ALTER ROLE {} BYPASSRLS", "bypasses row-level security"),
        ("CREATE ROLE between; GRANT service_role TO between; GRANT between TO {}", "member of service_role"),
        ("DO 'BEGIN EXECUTE format(''GRANT %I TO {}'', current_user); END'", "member of "),
    ],
)
def test_verify_names_users_roles_that_open_the_rows_of_others(
    database: str, role: str, grant: str, problem: str
) -> None:
    with connect(database) as connection, connection.transaction(force_rollback=True):
        connection.execute(grant.format(role).encode())
        (found,) = deviations(connection, discover())
    assert (found.kind, found.object) == ("role", role)
    assert problem in found.problem


def test_roles_of_the_application_are_its_own(database: str) -> None:
    with connect(database) as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE ROLE theirs; GRANT theirs TO authenticated, anon")
        connection.execute("CREATE TABLE public.unrelated (id int); ALTER TABLE public.unrelated OWNER TO theirs")
        assert deviations(connection, discover()) == []


def test_verify_of_empty_database_names_remedy(empty_database: str) -> None:
    with pytest.raises(SchemaError, match="nothing is installed; run `usage-worker migrate up`"):
        Runner(empty_database).verify()


def test_partitions_of_the_application_are_its_own(database: str) -> None:
    run(database, "CREATE TABLE theirs (id int) PARTITION BY LIST (id); CREATE TABLE one PARTITION OF theirs DEFAULT")
    run(database, "GRANT SELECT ON one TO anon")
    assert Runner(database).verify() == []


def test_column_of_the_application_changes_no_view(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    run(empty_database, "ALTER TABLE public.user_agents ADD mine text")
    runner.up()
    (found,) = runner.verify()
    assert (found.kind, found.object) == ("column", "user_agents.mine")
