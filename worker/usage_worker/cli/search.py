"""`usage-worker search`: find agents by what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.data_age import data_age
from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.search import find_agents
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import require_id
from usage_worker.store.needed_role import needed_role

if TYPE_CHECKING:
    from usage_worker.search import SearchResult

HEADINGS = ("rank", "agent", "score", "similarity", "matched by")

Text = Annotated[str, typer.Argument(metavar="TEXT", help="What is looked for: a name, words, or a whole question.")]
User = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Search with the rights of this user, as `authenticated`: a UUID, or your own id of the user. By default"
        " the rights are those of the role in DATABASE_URL; the owner of the tables sees every agent.",
    ),
]
Most = Annotated[int, typer.Option("-k", min=1, max=100, help="How many agents to show at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def search(text: Text, user: User = None, k: Most = 10, as_json: AsJson = False) -> None:
    """Find agents by the meaning of their descriptions, their words and their names.

    Without an embedder (USAGE_EMBEDDER), or before it has embedded the agents, words and names alone count.
    """
    settings = load_settings()
    with Store.for_reports(settings) as store, needed_role("authenticated", "service_role"):
        age = data_age(store)
        user_id = None if user is None else require_id(store, "user", user)
        # The terminal may have sent bytes that are not UTF-8.
        found = find_agents(store, settings, text.encode(errors="replace").decode(), k, user_id)
    if as_json:
        print_json(found.as_dict() | {"data_age_seconds": age})
    else:
        _show(found)


def _show(found: SearchResult) -> None:
    if found.reason:
        echo(f"searched by words and names alone: {found.reason}", err=True)
    if not found.agents:
        echo("no agent matches", err=True)
        return
    if not found.is_close:
        echo("nothing is close; these are the least distant", err=True)
    rows = [
        (
            str(agent.rank),
            agent.name,
            f"{agent.score:.4f}",
            "" if agent.similarity is None else f"{agent.similarity:.2f}",
            ", ".join(agent.matched_by),
        )
        for agent in found.agents
    ]
    print_rows(HEADINGS, rows, figures=("rank", "score", "similarity"), headings_in_lines=True)
