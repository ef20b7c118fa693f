"""`search_agents`: nearest vectors, words and names, and what a caller may not see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

from tests.integration.agents import (
    DIMENSION,
    OWNER,
    STRANGER,
    add_agents,
    draw,
    embed,
    exact,
    has_pgvector,
    names,
    search,
)
from tests.integration.database import run
from tests.integration.users import session_as
from usage_worker.migrate import Runner
from usage_worker.store.search import search_agents
from usage_worker.store.vector_index import EXACT_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.store.connection import Store


@pytest.mark.parametrize("extension", [False, True], ids=["arrays", "extension"])
def test_nearest_are_exact_and_filtered_ones_too(database: str, store: Store, extension: bool) -> None:
    if extension and has_pgvector(database):
        run(database, "CREATE EXTENSION vector")
    add_agents(database, *(f"agent {number}" for number in range(300)))
    vectors = embed(store)
    off = add_agents(database, "of nobody's query", active=False)
    for number in range(1000, 1005):
        found = search(database, draw(number))
        assert [row[1] for row in found] == exact(draw(number), vectors, 10)
        assert [row[0] for row in found] == list(range(1, 11))
        assert found[0][4] == pytest.approx(sum(x * y for x, y in zip(draw(number), vectors[found[0][1]], strict=True)))
    run(database, "UPDATE public.agents SET status = 'beta' WHERE right(name, 1) = '7'")
    beta = {row[0]: vectors[row[0]] for row in run(database, "SELECT id FROM public.agents WHERE status = 'beta'")}
    found = search(database, draw(7), k=30, filters='{"status": "beta", "is_active": true}')
    assert [row[1] for row in found] == exact(draw(7), beta, 30)
    assert off[0] not in {row[1] for row in search(database, draw(7), k=100)}


def test_hidden_agents_leave_no_trace(database: str, store: Store) -> None:
    add_agents(database, "Invoice Bot", description="pays invoices")
    add_agents(database, "Invoice Bot secret", "Invoice", description="pays invoices", active=False)
    embed(store)
    for query, text in ((draw(0), None), (None, "invoice"), (None, "secret"), (draw(1), "invoices")):
        owner = search(database, query, text, user=OWNER)
        stranger = search(database, query, text, user=STRANGER)
        visible = [row for row in owner if row[2] == "Invoice Bot"]
        assert [row[2:] for row in stranger] == [
            (row[2], *other[3:]) for row, other in zip(visible, stranger, strict=True)
        ]
        assert [row[0] for row in stranger] == list(range(1, len(stranger) + 1))
    with session_as(database, "authenticated", STRANGER) as connection:
        for table in ("agent_embeddings", "agent_search_quality"):
            count = f"SELECT count(*) FROM public.{table} WHERE agent_id NOT IN (SELECT id FROM public.agents)"
            assert connection.execute(count.encode()).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM public.agent_embeddings").fetchone() == (1,)


def test_names_and_words(database: str) -> None:
    described = {
        "GDPR checker": "Answers questions about data protection",
        "Müller & Söhne": "",
        "FI-4711": "",
        "Zephyr 7": "",
    }
    for name, description in described.items():
        add_agents(database, name, description=description)
    add_agents(database, "Zephyr 70", "Über uns", "a 100%_\\ agent", "The Who")
    for text, wanted in {
        "zephyr7": "Zephyr 7",
        "4711": "FI-4711",
        "mueller": None,
        "muller": "Müller & Söhne",
        "questions on tax": None,
        "question protected": "GDPR checker",
        "gdpr -checker": "GDPR checker",
        f"gdpr {'Ⱥ' * 700}": "GDPR checker",
        "gdpr OR zephyr": None,
        "über": "Über uns",
        "100%_\\": "a 100%_\\ agent",
        "the who": "The Who",
        "!&|()<->:*'\"": None,
        "x": None,
    }.items():
        found = names(search(database, None, text))
        assert (found[0] if found else None) == wanted, text


def test_long_texts(database: str) -> None:
    words = " ".join(f"word{number}" for number in range(200_000))
    add_agents(database, "long description", description=words)
    add_agents(database, "n" * 1_000_000)
    assert names(search(database, None, "word7")) == ["long description"]
    assert len(search(database, None, "n" * 300)) == 0
    assert len(search(database, None, "nnn")) == 1


def test_words_never_push_out_what_they_do_not_match(database: str, store: Store) -> None:
    add_agents(database, *(f"agent {number}" for number in range(50)))
    embed(store)
    nearest = names(search(database, draw(3)))
    assert names(search(database, draw(3), "quantum gravity of an agent")) == nearest
    assert names(search(database, draw(3), "agent 49"))[0] == "agent 49"


@pytest.mark.parametrize(
    "arguments",
    [
        {"k": 0}, {"k": 101}, {"k": None}, {"quality_weight": 0.2}, {"quality_weight": -1},
        {"quality_weight": float("nan")},
        {"filters": "[]"}, {"filters": None}, {"filters": '{"owner": 1}'}, {"filters": '{"created_by": "me"}'},
        {"filters": '{"created_by": ["00000000-0000-0000-0000-000000000001"]}'}, {"filters": '{"created_by": null}'},
        {"filters": '{"is_active": 1}'}, {"filters": '{"status": null}'}, {"model": "nothing"}, {"query": [1.0]},
        {"query": []}, {"query": [0.0] * 8}, {"query": [float("nan")] * 8}, {"query": [float("inf"), *[0.0] * 7]},
        {"query": [None, *[1.0] * 7]}, {"text": "a" * 10_001}, {"query": [[1.0] * 8]},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments(searchable: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="search_agents: "):
        search(searchable, **({"query": draw(0), "text": "agent"} | arguments))


@pytest.fixture(scope="module")
def searchable(postgres: Any, template_database: Callable[[], str]) -> Any:
    """Return a database with one agent and its vector, shared by tests that change nothing."""
    from tests.conftest import new_database  # noqa: PLC0415
    from usage_worker.store.connection import Store  # noqa: PLC0415

    with new_database(postgres, template_database()) as name, Store(postgres.url(name)) as store:
        add_agents(postgres.url(name), "agent")
        embed(store)
        yield postgres.url(name)


@pytest.mark.parametrize("numbers", [[3e38, 1e-30], [3.0, 1e-45], [1e-45]], ids=str)
def test_any_length_but_zero_is_a_query(searchable: str, numbers: list[float]) -> None:
    assert names(search(searchable, [*numbers, *[0.0] * (DIMENSION - len(numbers))])) == ["agent"]


def test_word_that_is_too_long_to_be_indexed_is_no_limit_of_the_search(database: str, store: Store) -> None:
    """PostgreSQL's notice of it has the SQLSTATE of ours."""
    add_agents(database, "agent", description="invoices " + "x" * 3_000)
    found = search_agents(store, None, "invoices", 5)
    assert ([agent.name for agent in found.agents], found.limit) == (["agent"], "")


@pytest.mark.parametrize("text", [f"{'Ⱥ' * 700},tax", f"tax,{'Ⱥ' * 700}"])
def test_word_that_grows_too_long_leaves_those_beside_it(database: str, store: Store, text: str) -> None:
    """In texts without spaces."""
    add_agents(database, "agent", description="tax")
    assert [agent.name for agent in search_agents(store, None, text, 5).agents] == ["agent"]


def test_search_without_words_raises_no_notice(searchable: str) -> None:
    notices: list[str | None] = []
    with session_as(searchable, "authenticated", STRANGER) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute("SELECT public.search_agents(%s::real[])", [draw(0)])
    assert notices == []


def test_extension_in_a_schema_that_users_may_not_enter(database: str, store: Store) -> None:
    add_agents(database, "agent")
    embed(store)
    run(database, "CREATE SCHEMA extensions")
    if has_pgvector(database):
        run(database, "CREATE EXTENSION vector SCHEMA extensions")
    assert names(search(database, draw(0))) == ["agent"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " \n",
        "&",
        "a" * 10_000,
        "Ⱥ" * 700,
        "Ⱥ" * 700 + "," + "\u212a" * 400,
        "\u0301",
        "%",
        "' || OR --",
        "$1",
        "%1$s {} %s",
    ],
)
def test_any_text_is_a_query(searchable: str, text: str | None) -> None:
    search(searchable, None, text)
    assert names(search(searchable, draw(0), text)) == ["agent"]


def test_no_default_model(database: str) -> None:
    add_agents(database, "agent")
    with pytest.raises(errors.InvalidParameterValue, match="no model is the default"):
        search(database, draw(0))
    assert names(search(database, None, "agent")) == ["agent"]


@pytest.mark.parametrize("role", ["anon", "usage_ingest"])
def test_others_may_not_search(database: str, role: str) -> None:
    with session_as(database, role, STRANGER) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT FROM public.search_agents(p_query_text => 'a')")


def test_platform_agents_with_id_and_name_only(database: str) -> None:
    add_agents(database, "helper")
    run(database, "ALTER TABLE public.agents DROP COLUMN description CASCADE, DROP COLUMN status CASCADE")
    assert names(search(database, None, "helper")) == ["helper"]
    assert search(database, None, "helper", filters='{"status": "beta"}') == []


def test_platform_agents_with_other_types(database: str) -> None:
    add_agents(database, "helper")
    for (policy,) in run(database, "SELECT policyname::text FROM pg_policies WHERE tablename = 'agents'"):
        run(database, f"DROP POLICY {policy} ON public.agents")
    run(database, "CREATE POLICY everybody ON public.agents USING (true)")
    run(
        database,
        "ALTER TABLE public.agents DROP COLUMN is_active CASCADE, DROP COLUMN created_by CASCADE,"
        f" ADD COLUMN is_active integer DEFAULT 1, ADD COLUMN created_by text DEFAULT '{str(OWNER).upper()}'",
    )
    for filters, found in [
        ({"is_active": True, "created_by": str(OWNER)}, ["helper"]),
        ({"is_active": False}, []),
        ({"created_by": str(STRANGER)}, []),
    ]:
        assert names(search(database, None, "helper", filters=json.dumps(filters))) == found


@pytest.mark.parametrize(
    "vector", ["{1}", "{1,1,0,0,0,0,0,0}", "{NaN,0,0,0,0,0,0,0}", "{Infinity,0,0,0,0,0,0,0}", "{NULL,1,0,0,0,0,0,0}",
               "{{1,0,0,0,0,0,0,0}}", "{}"],
)  # fmt: skip
def test_wrong_vectors_cannot_be_written(searchable: str, vector: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        run(searchable, "UPDATE public.agent_embeddings SET embedding = %s::real[]", vector)


def test_dimension_is_the_models(searchable: str) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(searchable, "UPDATE public.agent_embeddings SET dimension = 2, embedding = '{1,0}'")


def test_index_is_built_from_as_many_vectors_as_are_compared(database: str) -> None:
    ((source,),) = run(database, "SELECT prosrc FROM pg_proc WHERE proname = 'search_agents'")
    assert f"c_exact constant integer := {EXACT_ROWS};" in source


def test_down_and_up_again(database: str, store: Store) -> None:
    add_agents(database, "agent")
    embed(store)
    runner = Runner(database)
    runner.down("4.3.0")
    assert runner.verify() == []
    runner.up()
    assert runner.verify() == []
    assert names(search(database, None, "agent")) == ["agent"]
