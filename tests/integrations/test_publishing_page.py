"""The blocks of docs/publishing.md, executed in their order, with a provider that answers from this machine."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from decimal import Decimal
from inspect import CO_COROUTINE
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter

import usage_worker
from tests.acceptance.test_up import folder, running
from tests.documents import blocks
from tests.helpers import environment_without, eventually
from tests.integrations.variables import exports, keys
from usage_worker import uuid_of
from usage_worker.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = "publishing.md"
OPENAI = {"input_tokens": 812, "output_tokens": 160, "reasoning_tokens": 96, "model": "gpt-4o-2024-08-06"}
RESPONSES = {"input_tokens": 81, "output_tokens": 1035, "reasoning_tokens": 832, "model": "gpt-5.2-2025-12-11"}

__all__ = ["folder"]  # a fixture


def test_first_block_ends_in_the_printed_row(folder: Path, provider_url: str) -> None:
    """In the way of the README: everything is run by `usage-worker up`, whose exports are pasted."""
    publish, (select,), (printed,) = blocks(PAGE, "python")[0], blocks(PAGE, "sql"), blocks(PAGE, "text")
    names, _, row = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines()]
    with running(folder) as up:
        variables = exports(up)
        env = environment_without("USAGE_", "OPENAI") | keys(provider_url) | variables
        subprocess.run([sys.executable, "-c", publish], env=env, check=True, timeout=60)
        with psycopg.connect(variables["DATABASE_URL"], autocommit=True) as connection:
            (found,) = eventually(lambda: connection.execute(select.encode()).fetchall())
    fields = dict(zip(names, found, strict=True))
    assert fields.pop("response_time_ms") > 0
    assert fields == {"success": True, "model": row[0], "input_tokens": int(row[1]), "output_tokens": int(row[2])}


@pytest.fixture
def reader(provider_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a reader's own code has, before the first block."""
    for name, value in keys(provider_url).items():
        monkeypatch.setenv(name, value)
    counter = Counter("lost_events", "", ["kind"], registry=CollectorRegistry())
    return {
        "request": SimpleNamespace(user=SimpleNamespace(pk=42)),
        "STAFF": {"1"},
        "lost_events": counter,
    }


@pytest.fixture
def answers(reader: dict[str, Any]) -> Iterator[list[list[dict[str, Any]]]]:
    """Execute the blocks of Python; return the events of each."""
    yield [events_of(block, reader) for block in blocks(PAGE, "python") if "disabled" not in block]
    for name in ("models", "claude"):
        reader[name].close()


def events_of(block: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute a block, in an event loop where it waits, and return the events without fields that are empty."""
    code = compile(block, "publishing.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with capture() as events:
        if code.co_flags & CO_COROUTINE:
            asyncio.run(eval(code, namespace))  # noqa: S307 - our own page
        else:
            exec(code, namespace)  # noqa: S102
    return [{name: value for name, value in event.items() if value is not None} for event in events]


def is_one(events: list[dict[str, Any]], expected: dict[str, Any]) -> bool:
    """Return whether a block counted one use, by the page's user, with these fields."""
    (event,) = events
    return event["success"] and event.items() >= {"user_id": "42", "agent_id": "support-bot", **expected}.items()


def test_blocks_publish_what_the_page_says(
    capsys: pytest.CaptureFixture[str], answers: list[list[dict[str, Any]]]
) -> None:
    first, tracked, none, claude, later, response, stream, in_context, hooks, test, captured = answers
    assert is_one(first, OPENAI)
    used, rated, added = tracked
    assert is_one([used], {"input_tokens": 812, "output_tokens": 160, "cost_usd": Decimal("0.0031")})
    assert (rated["type"], rated["rating"]) == ("rating", Decimal("4.5"))
    assert is_one([added], {"tokens": 972})
    assert none == []
    assert is_one(claude, {"conversation_id": "thread-7", "cost_usd": Decimal("0.0031"), "provider": "anthropic"})
    for events in (later, response, in_context):
        assert is_one(events, RESPONSES)
    assert is_one(stream, OPENAI)
    assert capsys.readouterr().out == "Yes."
    assert hooks == test == []
    assert is_one(captured, {"tokens": 972})


def test_uuid_is_the_printed_one() -> None:
    assert f'uuid_of("user", 42)  # {uuid_of("user", 42)!r}' in blocks(PAGE, "python")[2]


def test_disabled_publisher_counts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    (block,) = (block for block in blocks(PAGE, "python") if "disabled" in block)
    with caplog.at_level("INFO", "usage_worker"):
        exec(block, {"usage_worker": usage_worker})  # noqa: S102
    assert len(caplog.records) == 1


def test_hooks_do_what_the_page_says(answers: object, reader: dict[str, Any]) -> None:
    usage = reader["usage"]
    with capture() as events:
        assert usage.track(1, "support-bot") is None
        assert usage.track(42, "support-bot", conversation_id="thread-7")
        assert usage.track(42, "support-bot", messages=-1) is None
    assert [(event["user_id"], event["conversation_id"]) for event in events] == [("42", None)]
    assert reader["lost_events"].labels("refused")._value.get() == 1


def test_test_sees_the_events(answers: object, reader: dict[str, Any]) -> None:
    """`answer` is the first block."""
    reader["answer"] = lambda _: exec(blocks(PAGE, "python")[0], reader)  # noqa: S102
    with capture() as events:
        reader["test_answer_is_counted"](events)
