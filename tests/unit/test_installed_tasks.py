"""Our tasks in an application's own Celery app, whose defaults and routes are meant for its own tasks."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue, binding

from tests.helpers import free_port
from usage_worker.errors import StreamUnavailableError
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.service import entry_point
from usage_worker.service.app import install
from usage_worker.service.process_record import queues_of
from usage_worker.service.task_names import FLUSH, HEARTBEAT, TRACK, TRACK_MANY
from usage_worker.settings import Settings

DIRECT = Exchange("direct")  # type: ignore[no-untyped-call]
TOPICS = Exchange("topics", "topic")  # type: ignore[no-untyped-call]


def queue(*arguments: Any, **options: Any) -> Any:
    return Queue(*arguments, **options)  # type: ignore[no-untyped-call]


def installed(redis_url: str = "redis://", /, **configuration: Any) -> Celery:
    app = Celery("theirs", set_as_current=False)
    app.conf.update(configuration)
    install(app, Settings(DATABASE_URL="postgresql://", REDIS_URL=redis_url))
    return app


def test_direct_call_raises_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no message that could be put back: the caller must know."""
    monkeypatch.setattr(entry_point, "_PAUSES", (0.01,))
    track = installed(f"redis://127.0.0.1:{free_port()}").tasks[TRACK]
    with pytest.raises(StreamUnavailableError):
        track(user_id="42")
    assert isinstance(track.apply(kwargs={"user_id": "42"}).result, StreamUnavailableError)


def test_defaults_of_an_application_are_not_ours() -> None:
    names = (
        "acks_late",
        "acks_on_failure_or_timeout",
        "reject_on_worker_lost",
        "store_errors_even_if_ignored",
        "track_started",
    )
    app = installed(**{"task_default_rate_limit": "1/m"} | {f"task_{name}": True for name in names})
    periodic = [task.name for task in PERIODIC_TASKS]
    for name in (FLUSH, HEARTBEAT, TRACK, TRACK_MANY, *periodic):
        task = app.tasks[name]
        assert (task.ignore_result, task.store_errors_even_if_ignored) == (True, False)
        assert (task.track_started, task.rate_limit) == (False, 0)
        assert task.acks_late == (name in {TRACK, TRACK_MANY})
        assert task.acks_on_failure_or_timeout != task.acks_late


@pytest.mark.parametrize(
    ("route", "queues"),
    [
        ({"priority": 5}, {"default"}),
        ({"queue": "theirs"}, {"theirs"}),
        ({"exchange": "direct", "routing_key": "a"}, {"theirs"}),
        ({"exchange": DIRECT, "routing_key": "b"}, {"others"}),
        ({"exchange": "topics", "routing_key": "usage.flush"}, {"all", "bound"}),
        ({"exchange": "unknown"}, set()),
        ({"exchange": "direct"}, set()),
        ({"routing_key": "a"}, {"default"}),
        ({"queue": "all", "routing_key": "a"}, {"all", "bound"}),
        ({"queue": "all"}, {"all", "bound"}),
        ({"queue": "theirs", "exchange": "direct", "routing_key": "b"}, {"others"}),
        ({"exchange": "direct", "routing_key": "c"}, {"bound"}),
    ],
)
def test_queue_is_found_by_any_route(route: dict[str, Any], queues: set[str]) -> None:
    bindings = [binding(DIRECT, "c"), binding(TOPICS, "b")]  # type: ignore[no-untyped-call]
    declared = [
        queue("theirs", DIRECT, "a"),
        queue("others", DIRECT, "b"),
        queue("all", TOPICS, "#"),
        queue("bound", bindings=bindings),
        queue("default"),
    ]
    app = installed(task_routes={"*": route}, task_queues=declared, task_default_queue="default")
    assert queues_of(app, FLUSH) == queues


def test_routing_key_alone_goes_to_the_exchange_of_the_default_queue() -> None:
    declared = [queue("default", TOPICS, "task.#"), queue("feed", TOPICS, "feed.#"), queue("theirs", DIRECT, "feed.a")]
    app = installed(task_routes={"*": {"routing_key": "feed.a"}}, task_queues=declared, task_default_queue="default")
    assert queues_of(app, FLUSH) == {"default", "feed"}


def test_a_router_that_reads_arguments_may_use_any_queue() -> None:
    def by_arguments(_: str, args: Any, *__: Any, **___: Any) -> dict[str, str]:
        return {"queue": f"q{args[0] % 2}"}

    app = installed(task_routes=[by_arguments], task_queues=[queue("q0"), queue("q1")])
    assert queues_of(app, FLUSH) == {"q0", "q1"}
