"""What users are shown of the graph: related agents, neighbourhoods, recommendations, and the command."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

from tests.documents import blocks
from tests.integration.database import run, with_option
from tests.integration.graphs import agent_id, load, user_id
from tests.integration.users import session_as
from usage_worker.maintenance.graph import update_graph
from usage_worker.migrate.files import split_statements

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from tests.integration.commands import Cli
    from usage_worker.store.connection import Store

A, B, C, D, E = (agent_id(number) for number in range(5))
# A-B, B-C and A-D are used together; E only by those who use nothing else, and most of all.
SETS = [{0, 1}] * 20 + [{1, 2}] * 20 + [{0, 3}] * 15 + [{4}] * 60
READER = len(SETS)


@pytest.fixture
def graph(database: str, store: Store) -> str:
    """Publish the relationships of SETS for a user who has nothing."""
    load(database, [*SETS, set()], 5)
    update_graph(store, 10)
    return database


@contextmanager
def reading(url: str, role: str = "authenticated") -> Iterator[psycopg.Connection]:
    with session_as(url, role, user_id(READER)) as connection:
        yield connection


def hide(url: str, agent: UUID) -> None:
    run(url, "UPDATE public.agents SET is_active = false WHERE id = %s", agent)


def ask(connection: psycopg.Connection, call: str, *arguments: object) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT * FROM public.{call}".encode(), arguments).fetchall()


def names(rows: list[tuple[Any, ...]]) -> list[tuple[int, UUID]]:
    return [row[:2] for row in rows]


def test_related_agents_are_ranked_by_cosine(graph: str) -> None:
    with reading(graph) as connection:
        rows = ask(connection, "related_agents(%s)", A)
        assert [(*row[:3], round(row[3], 3), row[4]) for row in rows] == [
            (1, D, "used_with", 0.655, 15),
            (2, B, "used_with", 0.535, 20),
        ]
        assert ask(connection, "related_agents(%s, 1)", A) == rows[:1]


def test_hidden_agent_is_in_no_result_rank_or_path(graph: str) -> None:
    with reading(graph) as connection:
        assert names(ask(connection, "related_agents(%s)", A)) == [(1, D), (2, B)]
        assert ask(connection, "agent_neighbourhood(%s)", B) == [(A, 1), (C, 1), (D, 2)]
        hide(graph, D)
        assert names(ask(connection, "related_agents(%s, 1)", A)) == [(1, B)]
        hide(graph, A)
        assert names(ask(connection, "related_agents(%s, 1)", B)) == [(1, C)]
        for agent in (A, D):
            assert ask(connection, "related_agents(%s)", agent) == []
            assert ask(connection, "agent_neighbourhood(%s, 4)", agent) == []
        assert ask(connection, "agent_neighbourhood(%s, 4)", B) == [(C, 1)]
        assert {row[1] for row in ask(connection, "agents_for_me()")} == {B, C, E}
        assert connection.execute("SELECT count(*) FROM public.agent_relationships").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM public.agent_popularity").fetchone() == (3,)


def test_neighbourhood_has_each_agent_once(graph: str) -> None:
    with reading(graph) as connection:
        assert ask(connection, "agent_neighbourhood(%s, 4, 20)", A) == [(B, 1), (D, 1), (C, 2)]
        assert ask(connection, "agent_neighbourhood(%s, 1)", C) == [(B, 1)]
        run(graph, "INSERT INTO public.agent_relationships VALUES (%s, %s, 'copy_of', 1)", A, B)
        assert ask(connection, "agent_neighbourhood(%s, 1, 2)", A) == [(B, 1), (D, 1)]


def test_recommendations_come_from_own_agents_and_then_from_popularity(graph: str) -> None:
    with reading(graph) as connection:
        assert ask(connection, "agents_for_me(1)") == [(1, E, "popular", None, 60)]
        run(graph, "UPDATE public.agents SET created_by = NULL")
        with session_as(graph, "service_role") as service:
            assert ask(service, "agents_for_me(1)") == [(1, E, "popular", None, 60)]
        with psycopg.connect(graph) as owner:
            owner.execute("INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)", [user_id(READER), C])
        rows = ask(connection, "agents_for_me()")
        assert [row[:3] for row in rows][:2] == [(1, B, "used_with"), (2, E, "popular")]
        assert {row[1] for row in rows} == {A, B, D, E}
        run(graph, "UPDATE public.agents SET created_by = %s WHERE id = %s", user_id(READER), E)
        assert E not in {row[1] for row in ask(connection, "agents_for_me()")}
        run(graph, "UPDATE public.user_agents SET deleted_at = now() WHERE user_id = %s", user_id(READER))
        rows = ask(connection, "agents_for_me()")
        assert {row[1:3] for row in rows} == {(A, "popular"), (B, "popular"), (D, "popular")}


def test_exact_counts_are_not_for_users(graph: str) -> None:
    for role in ("authenticated", "anon"):
        with reading(graph, role) as connection:
            for table in ("agent_pair_counts", "agent_graph_members"):
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(f"SELECT FROM public.{table}".encode())
    with reading(graph, "anon") as connection, pytest.raises(errors.InsufficientPrivilege):
        ask(connection, "related_agents(%s)", A)
    with reading(graph, "service_role") as connection:
        hide(graph, A)
        assert len(ask(connection, "related_agents(%s)", A)) == 2
        assert connection.execute("SELECT FROM public.agent_pair_counts").rowcount == 8


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("related_agents(NULL)", ()),
        ("related_agents(%s, 0)", (A,)),
        ("related_agents(%s, 51)", (A,)),
        ("related_agents(%s, NULL)", (A,)),
        ("agent_neighbourhood(NULL)", ()),
        ("agent_neighbourhood(%s, 0)", (A,)),
        ("agent_neighbourhood(%s, 5)", (A,)),
        ("agent_neighbourhood(%s, 2, 0)", (A,)),
        ("agent_neighbourhood(%s, 2, 21)", (A,)),
        ("agents_for_me(0)", ()),
        ("agents_for_me(NULL)", ()),
    ],
)
def test_bad_argument_is_named(database: str, call: str, arguments: tuple[object, ...]) -> None:
    with reading(database) as connection, pytest.raises(errors.InvalidParameterValue, match=r"p_\w+ (is null|must be)"):
        ask(connection, call, *arguments)


def test_copies_are_what_creators_say(database: str, store: Store) -> None:
    """A is a copy of B and B one of A, by their creators; others are not heard, nor who uses one without creator."""
    load(database, [{0}, {1}, {2}, {2}, {3}, {4}], 5)
    for user, agent, original in ((0, A, B), (1, B, A), (2, C, A), (4, D, A), (5, E, A)):
        run(
            database,
            "UPDATE public.user_agents SET original_agent_id = %s WHERE user_id = %s AND agent_id = %s",
            original,
            user_id(user),
            agent,
        )
    for creator, agent in ((0, A), (1, B), (3, D)):
        run(database, "UPDATE public.agents SET created_by = %s WHERE id = %s", user_id(creator), agent)
    update_graph(store, 10)
    found = run(database, "SELECT source_id, target_id, kind, weight, users FROM public.agent_relationships")
    assert sorted(found) == [(A, B, "copy_of", 1, None), (B, A, "copy_of", 1, None)]
    with session_as(database, "authenticated") as connection:
        assert ask(connection, "agent_neighbourhood(%s, 4)", A) == [(B, 1)]
        assert ask(connection, "agents_for_me()") == []


def test_documented_sql_runs_as_the_user(graph: str) -> None:
    block, *_ = blocks("related-agents.md", "sql")
    documented = "b7e0c9d4-58aa-4f0e-8a7b-3f1d2c4e5a02"
    with reading(graph) as connection:
        answers = [
            connection.execute(statement.replace(documented, str(A)).encode()).fetchall()
            for statement in split_statements(block)
            if statement.strip()
        ]
    assert [len(rows) for rows in answers] == [2, 3, 5]


def test_command_shows_related_agents(cli: Cli, graph: str) -> None:
    shown = cli.run("related", "agent 3")
    assert shown.stdout.splitlines() == ["name\tkind\tusers (at least)\tweight", "agent 2\tused_with\t20\t0.71"]
    run(graph, "INSERT INTO public.usage_external_ids (kind, id, external_id) VALUES ('agent', %s, '42')", C)
    document = json.loads(cli.run("related", "42", "--json", "-k", "1").stdout)
    assert (document["name"], document["min_users"]) == ("agent 3", 10)
    assert [(it["rank"], it["name"], it["users"]) for it in document["related"]] == [(1, "agent 2", 20)]
    assert json.loads(cli.run("related", str(C), "--json").stdout)["related"] == document["related"]


def test_command_has_the_rights_of_the_user(cli: Cli, graph: str) -> None:
    hide(graph, B)
    assert "agent 2" in cli.run("related", "agent 3").stdout
    mine = cli.run("related", "agent 3", "--user", str(user_id(READER)))
    assert mine.stdout.startswith("no agent is related to agent 3: none has 10 users in common with it")
    refused = cli.run("related", "agent 2", "--user", str(user_id(READER)))
    assert (refused.returncode, "there is no agent 'agent 2'" in refused.stderr) == (1, True)


def test_login_in_authenticated_may_use_the_command(cli: Cli, graph: str) -> None:
    cli.env["DATABASE_URL"] = with_option(graph, "role=authenticated")
    assert "agent 2" in cli.run("related", str(C)).stdout
    assert "agent 2" in cli.run("related", "agent 3", "--user", str(user_id(READER))).stdout


def test_command_takes_any_bytes(cli: Cli) -> None:
    for command in ("related \udcff", "anomalies --agent \udcff", "report --user \udcff", "search x --user \udcff"):
        assert len(cli.error_line(command)) > 0


def test_command_says_why_there_is_nothing(cli: Cli, database: str) -> None:
    load(database, [{0}], 2)
    assert "never computed" in cli.run("related", "agent 1").stdout
    run(database, "UPDATE public.agents SET name = 'twin'")
    assert "more than one agent is called 'twin'" in cli.run("related", "twin").stderr
    for name in ("nobody", "\udcff"):
        assert f"there is no agent {name!r}" in cli.run("related", name).stderr
