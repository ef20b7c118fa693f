"""The blocks of docs/integrations.md, run as programs: each publishes the event that stands below it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.documents import blocks
from tests.helpers import environment_without, eventually
from tests.integrations.conftest import broker_url, events_in
from tests.integrations.variables import keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Valkey

LITELLM, OPENTELEMETRY, LANGCHAIN, QUESTIONS, ASK = blocks("integrations.md", "python")


@pytest.fixture
def env(redis_url: str, provider_url: str) -> dict[str, str]:
    prices = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return environment_without("USAGE_", "OPENAI") | keys(provider_url) | prices | {"USAGE_REDIS_URL": redis_url}


def is_printed(events: list[dict[str, Any]], place: int, *varying: str) -> bool:
    """Return whether there is one event, which is the one printed there, except for what differs between two runs."""
    (event,) = events
    printed = dict(re.findall(r"(\w+) (\S+)", blocks("integrations.md", "text")[place]))
    expected = {name: value for name, value in printed.items() if name not in {"response_time_ms", *varying}}
    found = {"success": True, **event}
    return {name: str(found.get(name)).lower() for name in expected} == expected


@pytest.mark.parametrize(
    ("place", "block", "varying"),
    [(0, LITELLM, ()), (1, OPENTELEMETRY, ("conversation_id",)), (2, LANGCHAIN, ())],
    ids=["litellm", "opentelemetry", "langchain"],
)
def test_program_publishes_the_printed_event(
    env: dict[str, str], redis_client: redis.Redis, place: int, block: str, varying: tuple[str, ...]
) -> None:
    subprocess.run([sys.executable, "-c", block], env=env, check=True, timeout=60)
    assert is_printed(events_in(redis_client), place, *varying)


def test_task_publishes_the_printed_event(
    env: dict[str, str], valkey: Valkey, redis_client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "questions.py").write_text(QUESTIONS)
    env["CELERY_BROKER_URL"] = broker_url(valkey)
    with redis.Redis.from_url(valkey.url(1)) as tasks:
        tasks.flushdb()
    subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, env=env, check=True, timeout=60)
    command = [sys.executable, "-m", "celery", "-A", "questions", "worker", "--concurrency", "1"]
    with subprocess.Popen(command, cwd=tmp_path, env=env) as worker:
        try:
            events = eventually(lambda: events_in(redis_client), 60)
        finally:
            worker.terminate()
            worker.wait(120)
    assert is_printed(events, 3)
