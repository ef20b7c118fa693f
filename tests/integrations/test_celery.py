"""A task runs for whom it was published."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from threading import Barrier
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import redis
from celery import signals

from usage_worker import context, current_context
from usage_worker.integrations.celery import install

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.integrations.conftest import Published
    from tests.servers import Valkey

TASKS = """
import os
from celery import Celery
import usage_worker
import usage_worker.integrations.celery
from usage_worker.service.broker import broker_settings

usage_worker.integrations.celery.install()
usage_worker.integrations.celery.install()
usage = usage_worker.UsagePublisher(os.environ["REDIS_URL"], linger=0)
app = Celery()
app.conf.update(broker_settings(os.environ["OTHER_REDIS"]), task_ignore_result=True)

@app.task
def ask(tokens):
    usage.add({**usage_worker.current_context(), "input_tokens": tokens})
    if tokens == 1:
        ask.delay(2)
"""


def test_task_that_is_delivered_again_while_it_runs_leaves_nothing_behind() -> None:
    """As in a pool of threads, after the broker's visibility timeout."""
    install()
    both_run = Barrier(2)

    def execute() -> list[Any]:
        task = SimpleNamespace(request=SimpleNamespace(usage_context={"user_id": 1}))
        signals.task_prerun.send(None, task_id="x", task=task)
        both_run.wait(30)
        within = current_context()
        signals.task_postrun.send(None, task_id="x")
        return [within, current_context()]

    with ThreadPoolExecutor(2) as pool:
        deliveries = [pool.submit(execute) for _ in range(2)]
    assert [it.result() for it in deliveries] == [[{"user_id": 1}, {}]] * 2


def test_task_has_the_context_of_its_publisher(
    tmp_path: Path, valkey: Valkey, redis_url: str, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so has a task that it publishes; the next one of the same process has its own."""
    (tmp_path / "counted_tasks.py").write_text(TASKS)
    broker = valkey.url(1)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OTHER_REDIS", broker)
    monkeypatch.syspath_prepend(tmp_path)
    with redis.Redis.from_url(broker) as client:
        client.flushdb()
    counted_tasks = import_module("counted_tasks")
    first, second, agent = uuid4(), uuid4(), str(uuid4())
    with context(user_id=first, agent_id=agent):
        counted_tasks.ask.delay(1)
    counted_tasks.ask.delay(4)  # refused there: nobody's
    with context(user_id=second, agent_id=agent):
        counted_tasks.ask.delay(3)
    options = ["worker", "--concurrency", "1", "--without-gossip", "--without-mingle"]
    command = [sys.executable, "-m", "celery", "-A", "counted_tasks", *options]
    with subprocess.Popen(command, env=os.environ, cwd=tmp_path) as worker:
        try:
            events = published.arrived(3)
        finally:
            worker.terminate()
            worker.wait(120)
    counted_tasks.usage.close()
    assert sorted((event["user_id"], event["input_tokens"]) for event in events) == sorted(
        [(first.hex, 1), (first.hex, 2), (second.hex, 3)]
    )
    assert {event["agent_id"] for event in events} == {UUID(agent).hex}
