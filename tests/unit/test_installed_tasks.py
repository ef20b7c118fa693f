"""Our tasks in an application's own Celery app, whose routes are meant for its own tasks."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue

from usage_worker.service.app import install
from usage_worker.service.process_record import queues_of
from usage_worker.service.task_names import FLUSH
from usage_worker.settings import Settings

DIRECT = Exchange("direct")  # type: ignore[no-untyped-call]


def queue(*arguments: Any) -> Any:
    return Queue(*arguments)  # type: ignore[no-untyped-call]


def installed(**configuration: Any) -> Celery:
    app = Celery("theirs", set_as_current=False)
    app.conf.update(configuration)
    install(app, Settings(DATABASE_URL="postgresql://", REDIS_URL="redis://"))
    return app


@pytest.mark.parametrize(
    ("route", "queues"),
    [
        ({"priority": 5}, {"default"}),
        ({"queue": "theirs"}, {"theirs"}),
        ({"exchange": "direct", "routing_key": "a"}, {"theirs"}),
        ({"exchange": DIRECT, "routing_key": "b"}, {"others"}),
        ({"exchange": "topics", "routing_key": "usage.flush"}, {"all"}),
        ({"exchange": "unknown"}, set()),
        ({"exchange": "direct"}, set()),
    ],
)
def test_queue_is_found_by_any_route(route: dict[str, Any], queues: set[str]) -> None:
    topics = Exchange("topics", "topic")  # type: ignore[no-untyped-call]
    declared = [queue("theirs", DIRECT, "a"), queue("others", DIRECT, "b"), queue("all", topics, "#"), queue("default")]
    app = installed(task_routes={"*": route}, task_queues=declared, task_default_queue="default")
    assert queues_of(app, FLUSH) == queues
