"""Sessions of users, and a shared row with its users."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from tests.integration.database import run
from tests.sessions import Session, lent_session

if TYPE_CHECKING:
    from collections.abc import Iterator

FORBIDDEN = psycopg.errors.InsufficientPrivilege


@contextmanager
def session_as(url: str, role: str, user: uuid.UUID | None = None) -> Iterator[Session]:
    """Open a session with the role and the claims of an API request of the user."""
    with lent_session(url) as session:
        session.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        claims = json.dumps({"sub": str(user)}) if user else ""
        session.execute("SELECT set_config('request.jwt.claims', %s, false)", [claims])
        yield session


@dataclass(frozen=True)
class Users:
    """Ann owns the row and shares it with Bob and with the team of Cid; Dan has no access."""

    ann: uuid.UUID
    bob: uuid.UUID
    cid: uuid.UUID
    dan: uuid.UUID
    agent: uuid.UUID
    team: uuid.UUID
    row: uuid.UUID


def add_users(url: str) -> Users:
    """Add the users and the shared row to a database of version 3.0.0 or later."""
    added = run(url, "INSERT INTO auth.users (email) SELECT 'x' FROM generate_series(1, 4) RETURNING id")
    ann, bob, cid, dan = (user for (user,) in added)
    agent = run(url, "INSERT INTO public.agents (name) VALUES ('helper') RETURNING id")[0][0]
    team = uuid.uuid4()
    run(url, "INSERT INTO public.user_role_assignments (user_id, team_id) VALUES (%s, %s)", cid, team)
    row = run(
        url,
        "INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with, team_id)"
        " VALUES (%s, %s, true, %s, %s) RETURNING id",
        ann,
        agent,
        [bob],
        team,
    )[0][0]
    return Users(ann, bob, cid, dan, agent, team, row)
