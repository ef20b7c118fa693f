"""Sample data: every relation holds a row of the owner; other users and roles access it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

OWNER, RECIPIENT, TEAM_MEMBER, STRANGER = (UUID(int=number) for number in range(1, 5))
AGENT, TEAM, ROW, OTHER_AGENT = (UUID(int=number) for number in range(5, 9))

HERE = Path(__file__).parent


class Role(NamedTuple):
    """The role of a session, the user that it acts for, and the user to whom it would give the row."""

    role: str
    user: UUID | None = None
    new_owner: UUID = STRANGER

    @property
    def claims(self) -> str:
        return json.dumps({"sub": str(self.user)}) if self.user else ""


ROLES = {
    "anyone else": Role("access_test_other"),
    "anon": Role("anon"),
    "owner": Role("authenticated", OWNER),
    "shared_with": Role("authenticated", RECIPIENT, RECIPIENT),
    "team_id": Role("authenticated", TEAM_MEMBER, TEAM_MEMBER),
    "stranger": Role("authenticated", STRANGER, STRANGER),
    "granted": Role("access_test_granted", STRANGER, STRANGER),
    "service role": Role("access_test_service"),
    "ingest": Role("access_test_ingest"),
}

# The statement that brings the owner's row into a state.
STATES = {
    "live": "SELECT",
    "deleted": "UPDATE public.user_agents SET deleted_at = now()",
    "shared": "UPDATE public.user_agents SET is_shared = true",
    "shared and deleted": "UPDATE public.user_agents SET is_shared = true, deleted_at = now()",
    "editable": "UPDATE public.user_agent_shares SET permission = 'edit', expires_at = NULL",
    "agent off": "UPDATE public.agents SET is_active = false",
}


def populate(connection: Connection) -> None:
    """Create the users, their rows and the roles in the open transaction of the connection."""
    add_rows(connection)
    for script in ("roles", "objects", "probe"):
        connection.execute((HERE / f"{script}.sql").read_bytes())


def add_rows(connection: Connection) -> None:
    """Create the users and their rows alone: roles are of the whole server, and other tests create them, too."""
    users = {"owner": OWNER, "recipient": RECIPIENT, "member": TEAM_MEMBER, "stranger": STRANGER}
    with psycopg.ClientCursor(connection) as cursor:
        others = {"agent": AGENT, "other_agent": OTHER_AGENT, "team": TEAM, "row": ROW}
        cursor.execute((HERE / "sample.sql").read_bytes(), users | others)


def act_as(connection: Connection, role: Role) -> None:
    """Switch to the role until the transaction or the enclosing savepoint ends."""
    connection.execute(
        "SELECT set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role.role, role.claims]
    )
