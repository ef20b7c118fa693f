"""`usage-worker related`: the agents that the users of an agent also use, and what it is a copy of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.data_age import data_age
from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.errors import ArgumentError
from usage_worker.settings import load_settings
from usage_worker.store.access import act_as_user
from usage_worker.store.agents import require_agent
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import require_id
from usage_worker.store.graph import graph_state, related_agents
from usage_worker.store.needed_role import needed_role
from usage_worker.wording import utc

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.store.graph import GraphState, RelatedAgent

MOST_RELATED = 50
HEADINGS = ("name", "kind", "users (at least)", "weight")

Agent = Annotated[str, typer.Argument(help="A UUID, your own id of the agent, or its name if only one agent has it.")]
Number = Annotated[int, typer.Option("-k", min=1, max=MOST_RELATED, help="How many agents at most.")]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="ID", help="With the rights of this user: a UUID, or your own id of the user."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the agents as JSON, with the time of the relationships.")]


def related(agent: Agent, k: Number = 10, user: User = None, as_json: AsJson = False) -> None:
    """Show the agents that the users of an agent also use, and the one that it is a copy of.

    The task analytics.graph computes them once a day. Numbers of users are rounded down to a multiple of 5.
    """
    settings = load_settings()
    with Store.for_reports(settings) as store, needed_role("authenticated", "service_role"):
        age = data_age(store)
        user_id = None if user is None else require_id(store, "user", user)
        with store.connection() as connection:
            if user_id is not None:
                act_as_user(connection, user_id)
            uuid, name = require_agent(connection, agent)
            if name is None:
                raise ArgumentError(f"there is no agent {agent!r}")
            rows, state = related_agents(connection, uuid, k), graph_state(connection)
    if as_json:
        print_json(_document(uuid, name, rows, state) | {"data_age_seconds": age})
    elif rows:
        print_rows(
            HEADINGS,
            [[row.name, row.kind, "" if row.users is None else str(row.users), f"{row.weight:.2f}"] for row in rows],
            figures=HEADINGS[2:],
            headings_in_lines=True,
        )
    else:
        echo(_why_none(name, state))


def _document(uuid: UUID, name: str, rows: list[RelatedAgent], state: GraphState | None) -> dict[str, object]:
    return {
        "agent_id": uuid,
        "name": name,
        "computed_at": state and state.computed_at,
        "min_users": state and state.min_users,
        "related": [row._asdict() for row in rows],
    }


def _why_none(name: str, state: GraphState | None) -> str:
    if state is None:
        return "relationships were never computed: run `usage-worker run graph`"
    return (
        f"no agent is related to {name}: none has {state.min_users} users in common with it beyond chance,"
        f" as of {utc(state.computed_at)}; relationships are computed once a day"
    )
