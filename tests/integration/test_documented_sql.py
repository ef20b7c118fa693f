"""The SQL in docs/api.md, docs/forget.md and docs/migrations.md is executed as it is written."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from tests.documents import blocks, page_text
from tests.integration.database import add_pair, run
from usage_worker.migrate.files import split_statements

if TYPE_CHECKING:
    from collections.abc import Iterator

API = page_text("api.md")
# The ids in the documents.
USER = "6f2c8a52-3c1f-4c39-9d5e-0b6d4f1f8a01"
AGENT = "b7e0c9d4-58aa-4f0e-8a7b-3f1d2c4e5a02"
STRANGER = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def caller(database: str) -> Iterator[psycopg.Connection]:
    """Connect as the documents' user, in the way of PostgREST: a role, and the claims of the token."""
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", USER)
    run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'helper')", AGENT)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET ROLE authenticated")
        connection.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": USER})])
        yield connection


def test_sql_examples_run_in_their_order(caller: psycopg.Connection) -> None:
    answers = [
        caller.execute(statement.encode()).fetchall()
        for block in blocks("api.md", "sql")
        for statement in split_statements(block)
        if statement.strip()
    ]
    of_user, added, _, deleted, restored, score, of_agent, *of_views = answers
    assert of_user == []
    assert [(folder, status) for _, folder, status in added] == [("work", "active")]
    assert (deleted, restored) == ([(True,)], [(True,)])
    assert [str(row[0]) for row in score] == ["4.33"]
    assert of_agent == [(None,)]
    assert [len(rows) for rows in of_views] == [0, 1, 1]


def test_gateway_finds_each_function_by_the_keys_of_the_body(caller: psycopg.Connection) -> None:
    requests = [block.split("\n", 1) for block in blocks("api.md", "http") if block.startswith("POST")]
    assert len(requests) == 6
    for line, body in requests:
        name, arguments = line.removeprefix("POST /rpc/"), json.loads(body)
        caller.execute(call(name, arguments), [str(value) for value in arguments.values()])


def call(name: str, arguments: dict[str, Any]) -> sql.Composed:
    named = sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.Identifier(key)) for key in arguments)
    return sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("public", name), named)


def test_documented_parameters_are_those_of_the_catalogue(database: str) -> None:
    for name, text in re.findall(r"^### (\w+)\n(.*?)(?=^##)", API, re.DOTALL | re.MULTILINE):
        documented = re.findall(r"^\| `(p_\w+)` \| (\w+) \|", text, re.MULTILINE)
        rows = run(
            database,
            "SELECT a.name, a.type::regtype::text FROM pg_proc p, unnest(p.proargnames, p.proargtypes::oid[])"
            " WITH ORDINALITY AS a (name, type, place) WHERE p.oid = %s::regproc AND a.type IS NOT NULL ORDER BY place",
            f"public.{name}",
        )
        assert documented == rows, name


Calls = list[tuple[str, dict[str, Any]]]
ERRORS: dict[str, Calls] = {
    "a function for another user": [
        ("add_user_agent", {"p_user_id": STRANGER, "p_agent_id": AGENT}),
        ("track_agent_usage", {"p_user_id": STRANGER, "p_agent_id": AGENT}),
        ("soft_delete_user_agent", {"p_user_id": STRANGER, "p_agent_id": AGENT}),
        ("restore_user_agent", {"p_user_id": STRANGER, "p_agent_id": AGENT}),
    ],
    "any function or view as `anon`": [("add_user_agent", {"p_user_id": USER, "p_agent_id": AGENT})],
    "`add_user_agent` or `track_agent_usage` with a user or an agent that does not exist": [
        ("add_user_agent", {"p_user_id": USER, "p_agent_id": STRANGER}),
        ("track_agent_usage", {"p_user_id": USER, "p_agent_id": STRANGER}),
    ],
    "`add_user_agent` with a `p_source` that is not listed": [
        ("add_user_agent", {"p_user_id": USER, "p_agent_id": AGENT, "p_source": "elsewhere"})
    ],
    "`track_agent_usage` with a value out of bounds": [
        ("track_agent_usage", {"p_user_id": USER, "p_agent_id": AGENT, "p_tokens_used": -1}),
        ("track_agent_usage", {"p_user_id": USER, "p_agent_id": AGENT, "p_cost_usd": "NaN"}),
        ("track_agent_usage", {"p_user_id": USER, "p_agent_id": AGENT, "p_response_time_ms": 86_400_001}),
    ],
    "a text that is not a UUID": [("restore_user_agent", {"p_user_id": "me", "p_agent_id": AGENT})],
}


def test_documented_errors_have_their_sqlstates(caller: psycopg.Connection) -> None:
    documented = dict(re.findall(r"^\| (.+?) \| (\w{5}) \| \d+ \|$", API, re.MULTILINE))
    written = documented.pop("an insert or update of a counter by `authenticated`")
    assert documented.keys() == ERRORS.keys()
    for situation, calls in ERRORS.items():
        caller.execute(f"SET ROLE {'anon' if 'anon' in situation else 'authenticated'}".encode())
        for name, arguments in calls:
            with pytest.raises(psycopg.Error) as refused:
                caller.execute(call(name, arguments), [str(value) for value in arguments.values()])
            assert refused.value.sqlstate == documented[situation], (situation, name)
    caller.execute("SET ROLE authenticated")
    with pytest.raises(psycopg.Error) as refused:
        caller.execute("UPDATE public.user_agents SET usage_count = 0")
    assert refused.value.sqlstate == written


def test_checks_after_a_migration_show_what_the_document_says(caller: psycopg.Connection, database: str) -> None:
    run(database, "INSERT INTO public.user_agents (user_id, agent_id, is_favorite) VALUES (%s, %s, true)", USER, AGENT)
    answers = [
        caller.execute(statement.encode()).fetchall()
        for block in blocks("migrations.md", "sql", "Testing after migration")
        for statement in split_statements(block)
        if statement.strip()
    ]
    columns, indexes, policies, *queries = (len(rows) for rows in answers)
    assert (indexes, queries) == (25, [1, 1, 1])
    assert columns >= 55
    assert policies >= 6
    (before_and_after,) = blocks("migrations.md", "sql", "Data migration notes")
    for statement in split_statements(before_and_after):
        assert len(caller.execute(statement.encode()).fetchall()) == 1


def test_agent_is_deleted_after_its_rows_and_those_of_its_copies_are_locked(database: str) -> None:
    copy = add_pair(database)
    run(database, "INSERT INTO public.agents (id, name) VALUES (%s, 'original')", AGENT)
    run(database, "UPDATE public.user_agents SET original_agent_id = %s", AGENT)
    run(database, "INSERT INTO public.user_agents (user_id, agent_id) SELECT id, %s FROM auth.users", AGENT)
    (deletion,) = blocks("forget.md", "sql", "Delete an agent")
    run(database, deletion)
    assert run(database, "SELECT id::text, original_agent_id FROM public.user_agents") == [(copy, None)]
