"""Calls of the functions by other roles and users, and rules for every function, including future ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.access.sample import AGENT, OWNER, ROLES, act_as
from tests.access.table import DOCUMENT

if TYPE_CHECKING:
    from tests.access.sample import Connection

FORBIDDEN = psycopg.errors.InsufficientPrivilege
REFUSED = "is not your user|row-level security policy"
ACTING = ("add_user_agent", "track_agent_usage", "soft_delete_user_agent", "restore_user_agent")


@pytest.mark.parametrize("function", [*ACTING, "calculate_agent_quality_score"])
@pytest.mark.parametrize("stranger", ["anon", "anyone else"])
def test_roles_without_account_cannot_call_functions(connection: Connection, function: str, stranger: str) -> None:
    arguments = "1, 1, 1, 0" if function.startswith("calculate") else f"'{OWNER}', '{AGENT}'"
    act_as(connection, ROLES[stranger])
    with pytest.raises(FORBIDDEN, match=f"permission denied for function {function}"):
        connection.execute(f"SELECT public.{function}({arguments})".encode())


@pytest.mark.parametrize("function", ACTING)
@pytest.mark.parametrize("stranger", ["shared_with", "team_id", "stranger", "granted", "nobody"])
@pytest.mark.parametrize("state", ["live", "deleted", "missing"])
def test_users_cannot_act_for_others(connection: Connection, function: str, stranger: str, state: str) -> None:
    changes = {
        "live": "UPDATE public.user_agents SET is_shared = true",
        "deleted": "UPDATE public.user_agents SET is_shared = true, deleted_at = now()",
        "missing": "DELETE FROM public.user_agents",
    }
    connection.execute(changes[state].encode())
    role = ROLES["owner"]._replace(user=None) if stranger == "nobody" else ROLES[stranger]
    act_as(connection, role)
    with pytest.raises(FORBIDDEN, match=REFUSED):
        connection.execute(f"SELECT public.{function}(%s, %s)".encode(), [OWNER, AGENT])


@pytest.mark.parametrize("function", ACTING)
@pytest.mark.parametrize("caller", ["owner", "service role"])
def test_permitted_callers_can_act(connection: Connection, function: str, caller: str) -> None:
    if function == "restore_user_agent":
        connection.execute("UPDATE public.user_agents SET deleted_at = now()")
    act_as(connection, ROLES[caller])
    row = connection.execute(f"SELECT public.{function}(%s, %s)".encode(), [OWNER, AGENT]).fetchone()
    assert row
    assert row[0] is not False


def test_security_definer_functions_are_documented(connection: Connection) -> None:
    section = DOCUMENT.read_text().partition("## Functions with their owner's rights")[2].partition("\n## ")[0]
    reasons = re.findall(r"^- `(\w+)`:", section, re.MULTILINE)
    found = connection.execute(
        """
        SELECT p.proname,
               has_function_privilege('public', p.oid, 'EXECUTE') OR has_function_privilege('anon', p.oid, 'EXECUTE')
          FROM pg_proc AS p JOIN objects USING (oid) WHERE p.prosecdef ORDER BY 1
        """
    ).fetchall()
    assert [row[0] for row in found] == sorted(reasons)
    assert [row for row in found if row[1]] == []


def test_no_function_is_granted_to_public(connection: Connection) -> None:
    """PostgreSQL grants EXECUTE to PUBLIC by default."""
    found = connection.execute(
        """
        SELECT oid::regprocedure::text, role FROM objects, unnest(ARRAY['public', 'anon']) AS role
         WHERE kind IN ('function', 'predicate') AND name NOT LIKE 'auth.%'
           AND has_function_privilege(role, oid, 'EXECUTE')
        """
    )
    assert found.fetchall() == []
