"""No message of a Celery application stops a worker or is lost: an unreadable one becomes a dead letter."""

from __future__ import annotations

import json
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Celery

from tests.helpers import broker_url, eventually
from tests.integration.test_poison_events import EARLIEST, HALF, LATEST, pair
from usage_worker.service.app import make_app
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import IngestHarness

DEVNULL = Path("/dev/null")
# Bodies that the main process of a worker cannot read: not the three parts that Celery sends.
BODIES = ("[1]", "{}", "null", "[1, 2, 3]", '[[], {"a": 1}', "[" * 5_000 + "]" * 5_000)

HEADERS: tuple[dict[str, Any], ...] = (
    {"id": ["x"]},
    {"timelimit": 5},
    {"timelimit": [None]},
    {"timelimit": ["1", "2"]},
    {"stamped_headers": 5},
    {"eta": "tomorrow"},
    {"eta": 5},
    {"expires": "never"},
    {"expires": {}},
    {"eta": ""},
    {"expires": ""},
)


def test_invalid_text_is_quarantined(harness: IngestHarness) -> None:
    with running_worker(harness, "solo") as sender:
        for fields in ({"model": f"gpt-{HALF}"}, {"occurred_at": LATEST}, {"occurred_at": EARLIEST}, {}):
            sender.send_task("usage.track", kwargs=pair(harness, **fields))
        sender.send_task("usage.track_many", args=[[pair(harness, model=HALF), pair(harness)]])
        await_accepted(harness, 6)
    assert harness.resources.store.intake_totals() == Intake(6, 2, 0, 4)


def test_any_headers_are_survived(harness: IngestHarness) -> None:
    """Celery ends the worker at some of these, and drops the messages with others."""
    good = json.dumps([[], pair(harness), {}])
    with running_worker(harness, "prefork") as sender:
        for headers in HEADERS:
            publish(sender, good, **headers)
        publish(sender, json.dumps([[], pair(harness), 5]))
        publish(sender, json.dumps([[], pair(harness), None]), retries="x", root_id={}, shadow=5, stamps=5)
        publish(sender, good, eta="9999-12-31T23:59:59-14:00")
        publish(sender, good, id=5)
        publish(sender, good, other=nested(900))
        await_accepted(harness, len(HEADERS) + 5)
    assert harness.resources.store.intake_totals() == Intake(len(HEADERS) + 5, 3, 0, len(HEADERS) + 2)


def test_any_arguments_are_kept(harness: IngestHarness) -> None:
    good = pair(harness)
    with running_worker(harness, "prefork") as sender:
        for task_id in ("order-42", "\x00", HALF):
            sender.send_task("usage.track", task_id=task_id, kwargs=good)
        sender.send_task("usage.track", args=list(good.values()))
        sender.send_task("usage.track", kwargs=good | {"self": 1})
        calls: list[dict[str, Any]] = [{"args": [5]}, {"kwargs": {"x": 1}}, {"args": [[], []]}, {"args": [[5]]}, {}]
        for call in calls:
            sender.send_task("usage.track_many", **call)
        await_accepted(harness, 10)
    assert harness.resources.store.intake_totals() == Intake(10, 3, 0, 7)


def test_tasks_that_are_called_as_functions_have_no_id(harness: IngestHarness) -> None:
    """So does Celery's own task that `chunks` sends."""
    with make_app(harness.resources.settings) as app, closing(app.usage_resources):
        for model in ("a", "b", "a"):
            app.tasks["usage.track"](**pair(harness, model=model))
            app.tasks["usage.track_many"]([pair(harness, model=model)])
    assert harness.flush() == Intake(6, 6, 0, 0)


def test_event_that_no_entry_holds_is_quarantined_alone(harness: IngestHarness) -> None:
    with make_app(harness.resources.settings) as app, closing(app.usage_resources):
        for value in ("x" * 2**24, nested(5_000)):
            app.tasks["usage.track_many"]([pair(harness), pair(harness, x=value), pair(harness)])
    assert harness.flush() == Intake(6, 4, 0, 2)


def test_unreadable_message_does_not_stop_worker(harness: IngestHarness) -> None:
    with running_worker(harness, "prefork") as sender:
        sender.send_task("usage.track", kwargs=pair(harness, x=nested(900)))
        for body in BODIES:
            publish(sender, body)
        publish(sender, "plain", compression="zlib")  # Celery drops it before it looks for the task
        sender.send_task("usage.track", kwargs=pair(harness))
        await_accepted(harness, len(BODIES) + 3)
    assert harness.resources.store.intake_totals() == Intake(len(BODIES) + 3, 1, 0, len(BODIES) + 2)
    payloads = [json.loads(dead_letter["payload"]) for dead_letter in harness.dead_letters()]
    assert {payload["message"] for payload in payloads} >= {*BODIES, "plain"}


@contextmanager
def running_worker(
    harness: IngestHarness, pool: str, *options: str, app: str = "usage_worker", log: Path = DEVNULL, **env: str
) -> Iterator[Celery]:
    """Run a worker that must not end before the block does, and yield an app to send messages with."""
    settings = harness.resources.settings
    command = [sys.executable, "-m", "celery", "-A", app, "--quiet", "worker", "--pool", pool, "-c", "1", *options]
    environment = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url} | env
    environment["PYTHONPATH"] = ":".join(filter(None, sys.path))
    with (
        log.open("wb") as output,
        Popen(command, env=environment, stdout=output, stderr=output) as worker,
        closing(Celery(broker=broker_url(settings.redis_url))) as sender,
    ):
        try:
            yield sender
            assert worker.poll() is None
        finally:
            worker.terminate()


def await_accepted(harness: IngestHarness, events: int) -> None:
    eventually(lambda: harness.flush() and harness.resources.store.intake_totals().accepted == events, 60)


def publish(sender: Celery, body: str, **others: Any) -> None:
    """Send a message with the headers of a task, or others, and any body."""
    headers = {"lang": "py", "task": "usage.track", "id": str(uuid4()), **others}
    with sender.producer_pool.acquire() as producer:
        producer.publish(
            body, routing_key="celery", headers=headers, content_type="application/json", content_encoding="utf-8"
        )


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
