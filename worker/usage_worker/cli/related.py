"""`usage-worker related`: the agents that the users of an agent also use, and what it is a copy of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.errors import SettingsError
from usage_worker.settings import load_settings
from usage_worker.store import Store, act_as_user, agents_called, graph_state, id_of, related_agents

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store import GraphState, RelatedAgent

MOST_RELATED = 50

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
    with Store(settings.require_database(), pooled=settings.pooled) as store, store.connection() as connection:
        if user is not None:
            act_as_user(connection, _user(connection, user))
        # The terminal may have sent bytes that are not UTF-8.
        uuid, name = _agent(connection, agent.encode(errors="replace").decode())
        rows, state = related_agents(connection, uuid, k), graph_state(connection)
    if as_json:
        print_json(_document(uuid, name, rows, state))
    elif rows:
        print_rows(
            ["name", "kind", "users (at least)", "weight"],
            [[row.name, row.kind, "" if row.users is None else str(row.users), f"{row.weight:.2f}"] for row in rows],
            title=f"related to {name}",
            headings_in_lines=True,
        )
    else:
        echo(_why_none(name, state))


def _user(connection: Connection, text: str) -> UUID:
    if uuid := id_of(connection, "user", text):
        return uuid
    raise SettingsError(f"no event has named the user {text!r}")


def _agent(connection: Connection, text: str) -> tuple[UUID, str]:
    found = agents_called(connection, text)
    if len(found) == 1:
        return next(iter(found.items()))
    raise SettingsError(
        f"more than one agent is called {text!r}: use its id" if found else f"there is no agent {text!r}"
    )


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
        return "relationships were never computed: run `celery -A usage_worker call analytics.graph`"
    return (
        f"no agent is related to {name}: none has {state.min_users} users in common with it beyond chance,"
        f" as of {state.computed_at:%Y-%m-%d %H:%M} UTC; relationships are computed once a day"
    )
