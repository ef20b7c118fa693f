"""An application's own tests: what it publishes is collected, and nothing is sent."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.helpers import environment_without
from tests.unit.sockets import refusing_url
from usage_worker import UsagePublisher
from usage_worker.events.columns import NAMES
from usage_worker.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER, AGENT = uuid4(), uuid4()


@pytest.fixture(params=["enabled", "disabled"])
def usage(request: pytest.FixtureRequest) -> Iterator[UsagePublisher]:
    publisher = UsagePublisher(refusing_url(), linger=60, disabled=request.param == "disabled")
    yield publisher
    publisher.close(0)


def tokens(events: list[dict[str, Any]]) -> list[int]:
    return [event["input_tokens"] for event in events]


def test_publisher_made_before_is_captured_and_nothing_is_left(usage: UsagePublisher) -> None:
    before = usage.stats()
    with capture() as events:
        identity = usage.track(USER, AGENT, input_tokens=812)
        assert usage.rate(USER, AGENT, 4.5)
        assert usage.add({"user_id": USER, "agent_id": AGENT, "input_tokens": 3})
        assert usage.flush(0)
    assert (tokens(events), events[1]["type"]) == ([812, 0, 3], "rating")
    assert (tuple(events[0]), events[0]["event_id"]) == (NAMES, UUID(identity))
    assert usage.stats() == before
    tracked = usage.track(USER, AGENT)
    assert usage.stats().buffered == int(tracked is not None)
    assert len(events) == 3


def test_publisher_made_inside_is_captured() -> None:
    with capture() as events, UsagePublisher(refusing_url()) as usage:
        usage.track(USER, AGENT, input_tokens=1)
    assert tokens(events) == [1]


def test_refused_and_late_events_are_not_captured(usage: UsagePublisher) -> None:
    with capture() as events:
        assert usage.track("not a uuid", AGENT) is None
        assert usage.stats().refused == 1
        usage.close(0)
        assert usage.track(USER, AGENT) is None
    assert events == []


def test_each_open_capture_gets_the_events_of_its_time(usage: UsagePublisher) -> None:
    with capture() as outer:
        usage.track(USER, AGENT, input_tokens=1)
        with capture() as inner:
            usage.track(USER, AGENT, input_tokens=2)
            inner[0]["input_tokens"] = 20
        usage.track(USER, AGENT, input_tokens=3)
    assert (tokens(outer), tokens(inner)) == ([1, 2, 3], [20])


def test_events_of_all_threads_are_captured(usage: UsagePublisher) -> None:
    def track() -> None:
        for _ in range(100):
            usage.track(USER, AGENT, input_tokens=1)

    with capture() as events:
        threads = [threading.Thread(target=track) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tokens(events) == [1] * 800


def test_capture_ends_with_an_exception(usage: UsagePublisher) -> None:
    captured = []

    def fail() -> None:
        with capture() as events:
            captured.append(events)
            usage.track(USER, AGENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    usage.track(USER, AGENT)
    assert len(captured[0]) == 1


def test_fixture_captures_events(usage: UsagePublisher, usage_events: list[dict[str, Any]]) -> None:
    with capture() as events:
        usage.track(USER, AGENT, input_tokens=4)
    assert tokens(usage_events) == tokens(events) == [4]


APPLICATION = """
import sys, uuid

def test_without_the_fixture():
    assert "usage_worker.pytest_plugin" in sys.modules
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not {"pydantic", "redis", "uuid_utils"} & loaded
    assert not any(name.startswith(("usage_worker.publisher", "usage_worker.testing")) for name in sys.modules)

def test_with_the_fixture(usage_events):
    import usage_worker

    usage_worker.UsagePublisher().track(uuid.uuid4(), uuid.uuid4(), input_tokens=5)
    assert usage_events[0]["input_tokens"] == 5
    assert not {"celery", "numpy", "psycopg", "redis"} & set(sys.modules)
"""


def test_plugin_loads_nothing_until_the_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "."]
    env = environment_without("REDIS_URL", "USAGE_", "PYTEST_")
    done = subprocess.run(command, cwd=tmp_path, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
