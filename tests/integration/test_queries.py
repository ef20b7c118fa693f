"""Every named query is used, every name that the code uses exists, and PostgreSQL accepts every query."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.sql import query as tests_query
from usage_worker.bench.queries import schema_versions
from usage_worker.bench.sql import query as bench_query
from usage_worker.demo.sql import query as demo_query
from usage_worker.maintenance.partitioned_table import partitioned_tables
from usage_worker.migrate.obstacles import CHECKS, REQUIREMENTS
from usage_worker.migrate.queries import query as migrate_query
from usage_worker.settings import Settings
from usage_worker.store.queries import query
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.queries import Queries

ROOT = Path(__file__).parents[2]
# The queries by the module from which code imports `query`.
QUERIES = {
    "usage_worker.store.queries": query,
    "usage_worker.testing.sql": testing_query,
    "usage_worker.migrate.queries": migrate_query,
    "usage_worker.bench.sql": bench_query,
    "usage_worker.demo.sql": demo_query,
    "tests.sql": tests_query,
}
# Names that code keeps in tables, not at the call.
NAMES_IN_TABLES = {
    "usage_worker.store.queries": {
        *(table.ensure for table in partitioned_tables(Settings())),
        *(f"forget_{act}{form}" for act in ("count", "users", "unset") for form in ("", "_array", "_text")),
        *("forget_delete", "forget_unset_shared_with"),
        *("forget_lock_letters", "forget_delete_letters", "forget_in_letter"),
    },
    "usage_worker.migrate.queries": {name for checks in (*CHECKS.values(), REQUIREMENTS) for name, _ in checks},
    "usage_worker.bench.sql": {
        name for schema in schema_versions() for name in (schema.insert, *schema.queries.values())
    },
}
PLANNED = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH"}
# Statements that have no plan and can be executed: settings of the transaction, and those on temporary tables.
EXECUTED = {"SET", "CREATE", "TRUNCATE"}
NEITHER = {"ANALYZE", "LOCK", "COPY", "COMMENT", "ALTER", "DROP", "REFRESH"}
# Names of tables and columns, which only the code fills in.
NAMES = {
    "{rollup}": "agent_usage_hourly",
    "{period}": "hour",
    "{partition}": "usage_events",
    "{daily}": "message_count",
    "{oid}": "tableoid",
    "{{": "{",
    "}}": "}",
}
# Table and column of a statement, by a part of its name.
PLACES = {
    "letter": ("usage_dead_letters", "id"),
    "correct_day": ("usage_daily", ""),
    "_text": ("user_agent_history", "changes"),
    "shared_with": ("user_agents", "shared_with"),
    "forget": ("user_agent_shares", "accepted_by"),
}
# A fragment, which needs the statement that follows it.
COMPLETED_BY = {
    "differing_insert": "day_differences",
    "agent_texts": "embedding_status",
    "mark_found_hours": "different_hours",
    "ownerless_ids": "delete_ownerless_ids",
    "ownerless_conversation_ids": "delete_ownerless_ids",
}
# Statements that begin with a fragment.
BEGUN_BY = {"stale_agents": "agent_texts", "embedding_status": "agent_texts", "delete_ownerless_ids": "ownerless_ids"}
# Statements that read temporary tables, which others make in the same transaction.
MADE_BY = {
    "graph_changes": ["graph_touched"],
    "graph_apply_changes": ["graph_touched", "graph_changes"],
    "graph_keep_members": ["graph_touched"],
}
_PARAMETER = re.compile(r"%\((\w+)\)s")
_COMMENT = re.compile(r"--.*")


@pytest.mark.parametrize("module", QUERIES)
def test_code_uses_exactly_all_named_queries(module: str) -> None:
    used = NAMES_IN_TABLES.get(module, set()).copy()
    for folder in ("worker", "tests", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            if module in text:
                used |= set(names_in(ast.parse(text), module))
    assert used == set(QUERIES[module].texts)


@pytest.mark.parametrize(
    "queries", [query, testing_query, demo_query, tests_query], ids=["store", "testing", "demo", "tests"]
)
def test_postgresql_accepts_every_query(database: str, queries: Queries) -> None:
    refused = {}
    with psycopg.connect(database) as connection:
        for statement in ("staging", "stage_ledger", "differing"):
            connection.execute(query(statement))
        for name in queries.texts:
            try:
                with connection.transaction(force_rollback=True):
                    for maker in MADE_BY.get(name, []):
                        connection.execute(query(maker))
                    parts = BEGUN_BY.get(name, ""), name, COMPLETED_BY.get(name, "")
                    text = "\n".join(queries.texts.get(part, "") for part in parts)
                    table, column = next((place for part, place in PLACES.items() if part in name), ("", ""))
                    accept(connection, text.replace("{table}", table).replace("{column}", column))
            except psycopg.Error as error:
                refused[name] = str(error)
    assert refused == {}


def accept(connection: psycopg.Connection, text: str) -> None:
    """Plan a statement, with NULL for every parameter; execute it where it has no plan."""
    verb = _COMMENT.sub("", text).split(maxsplit=1)[0]
    if verb in PLANNED:
        for placeholder, name in NAMES.items():
            text = text.replace(placeholder, name)
        connection.execute(b"EXPLAIN " + text.encode(), dict.fromkeys(_PARAMETER.findall(text)))
    elif verb in EXECUTED and "{" not in text:
        connection.execute(text.encode(), dict.fromkeys(_PARAMETER.findall(text)) or None)
    else:
        assert verb in NEITHER | EXECUTED


def names_in(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the names with which a file calls the queries of a module.

    A name is followed from a loop over names, and through the parameters of the file's functions.
    """
    functions = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
        if alias.name == "query"
    }
    while functions:
        arguments: defaultdict[str, list[ast.expr]] = defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) in functions:
                arguments[called(node)] += [*node.args, *(keyword.value for keyword in node.keywords)]
        passed = [argument for given in arguments.values() for argument in given]
        yield from (name for argument in passed for name in strings(argument))
        variables = {argument.id for argument in passed if isinstance(argument, ast.Name)}
        yield from names_in_loops(tree, functions)
        found = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and passes_parameter(node, functions)
        }
        if found <= functions or not variables:
            return
        functions |= found


def names_in_loops(tree: ast.Module, functions: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and passes(node, node.target.id, functions):
            yield from strings(node.iter)


def passes_parameter(function: ast.FunctionDef, functions: set[str]) -> bool:
    parameters = (*function.args.args, *function.args.kwonlyargs)
    return any(passes(function, parameter.arg, functions) for parameter in parameters)


def passes(node: ast.AST, variable: str, functions: set[str]) -> bool:
    """Whether a variable is an argument of a call of one of these functions."""
    return any(
        isinstance(argument, ast.Name) and argument.id == variable
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and called(call) in functions
        for argument in call.args
    )


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def strings(node: ast.expr) -> Iterator[str]:
    """Yield the string literals of an expression: itself, its branches, its elements."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from (*strings(body), *strings(other))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            for element in elements:
                yield from strings(element)
        case ast.Starred(value=value):
            yield from strings(value)
