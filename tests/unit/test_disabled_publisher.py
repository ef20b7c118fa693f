"""A publisher that is disabled: one line in the log, and nothing else happens."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import pytest

from tests.unit.sockets import silent_server, url_of
from usage_worker import UsagePublisher
from usage_worker.errors import SettingsError
from usage_worker.events.columns import MAX_PACK_EVENTS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

USER, AGENT = uuid4(), uuid4()


@pytest.fixture(autouse=True)
def no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGE_REDIS_URL", "REDIS_URL", "USAGE_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with silent_server() as server:
        server.setblocking(False)
        yield server


def never_called(*_: object) -> Any:
    raise AssertionError("a disabled publisher calls nothing")


class Unread:
    """A response, and a chunk, that must not be read; what reads it goes on after any exception."""

    reads: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            Unread.reads.append(name)
        return super().__getattribute__(name)


def measure(usage: UsagePublisher) -> None:
    response = Unread()
    assert usage.track_response(USER, AGENT, response) is None
    with usage.measure(USER, AGENT) as call:
        call.response = response
    assert list(usage.stream(USER, AGENT, [response])) == [response]
    with usage.stream(USER, AGENT, iter([response])) as chunks:
        assert next(chunks) is response
    assert Unread.reads == []


def use(usage: UsagePublisher) -> None:
    """Call every method, also with fields that an enabled publisher refuses."""
    assert usage.track(USER, AGENT, input_tokens=1) is None
    assert usage.track("not a uuid", AGENT, event_id="") is None
    assert usage.rate(USER, AGENT, 9) is None
    assert usage.add({}) is None
    assert usage.flush(0)
    assert asyncio.run(usage.aflush(0))
    measure(usage)
    usage.close()
    asyncio.run(usage.aclose())
    usage.shutdown()
    assert usage.track(USER, AGENT) is None


@pytest.mark.parametrize(
    ("environment", "arguments", "line"),
    [
        ({}, {}, "disabled, since neither USAGE_REDIS_URL nor REDIS_URL is set"),
        ({"REDIS_URL": ""}, {"redis_url": ""}, "disabled, since neither USAGE_REDIS_URL nor REDIS_URL is set"),
        ({"USAGE_DISABLED": "1"}, {"redis_url": "URL"}, "disabled"),
        ({"USAGE_DISABLED": "true", "REDIS_URL": "URL"}, {}, "disabled"),
        ({"USAGE_DISABLED": "true", "REDIS_URL": "sentinel://elsewhere"}, {}, "disabled"),
        ({"USAGE_DISABLED": "0"}, {"redis_url": "URL", "disabled": True}, "disabled"),
    ],
)
def test_disabled_publisher_logs_one_line_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    server: socket.socket,
    environment: dict[str, str],
    arguments: dict[str, Any],
    line: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("URL", url_of(server)))
    if arguments.get("redis_url"):
        arguments = arguments | {"redis_url": url_of(server)}
    threads = threading.enumerate()
    usage = UsagePublisher(**arguments, before_send=never_called, on_error=never_called)
    use(usage)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("usage_worker")] == [
        f"the publisher is {line}; no events are sent"
    ]
    assert threading.enumerate() == threads
    with pytest.raises(BlockingIOError):
        server.accept()
    stats = usage.stats()
    assert (stats.accepted, stats.sent, stats.dropped, stats.refused, stats.filtered) == (0, 0, 0, 0, 0)
    assert stats.holding == line


def test_argument_enables_what_the_environment_disables(monkeypatch: pytest.MonkeyPatch, server: socket.socket) -> None:
    monkeypatch.setenv("USAGE_DISABLED", "1")
    monkeypatch.setenv("REDIS_URL", url_of(server))
    usage = UsagePublisher(disabled=False)
    assert usage.track(USER, AGENT)
    usage.close(0)


def test_missing_url_is_a_warning_and_the_switch_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    UsagePublisher()
    UsagePublisher(disabled=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("linger", (-0.1, float("nan"), float("inf"), "1", None)),
        ("pack_events", (0, -1, 2.5, "500", None, MAX_PACK_EVENTS + 1)),
        ("buffer_bytes", (0, -1, float("nan"), "64", None)),
    ],
)
def test_limits_are_checked(name: str, values: tuple[Any, ...], *, disabled: bool) -> None:
    for value in values:
        with pytest.raises(SettingsError, match=rf"{name}: must be [^\n]+\Z"):
            UsagePublisher("redis://localhost", disabled=disabled, **{name: value})
