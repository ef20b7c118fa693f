"""Measured blocks and responses: what is published, and that the application notices nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.sockets import refusing_url
from tests.unit.test_responses import ODD, recorded
from usage_worker import UsagePublisher, context, current_context
from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Window
from usage_worker.events.wire import prepare
from usage_worker.publisher.measuring import Measuring, _warn_once

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, AGENT = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
PAIR = {"user_id": USER, "agent_id": AGENT}
CHAT = recorded("openai_chat")


class Kept(Measuring):
    """A publisher that keeps its events instead of sending them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def add(self, fields: dict[str, Any]) -> str | None:
        try:
            event = prepare(fields, Window.around(datetime.now(UTC), timedelta(days=1)))
        except EventRefusedError as error:
            self.refused.append(str(error).removeprefix("event refused: ").partition(":")[0])
            return None
        self.events.append(fields)
        return event.event_id

    def only(self) -> dict[str, Any]:
        """Return the only event, without its time, which must be there."""
        (event,) = self.events
        return {name: value for name, value in event.items() if name != "response_time_ms"}


@pytest.fixture
def usage() -> Kept:
    _warn_once.cache_clear()
    return Kept()


def test_measured_block_is_counted_with_its_response(usage: Kept) -> None:
    with usage.measure(USER, AGENT, event_id="chatcmpl-1") as call:
        call.response = CHAT["response"]
        call.cost_usd = 0.0031
        call.model = "ours"
        assert usage.events == []
    expected = {**PAIR, **CHAT["expected"], "event_id": "chatcmpl-1", "cost_usd": 0.0031, "model": "ours"}
    assert usage.only() == {**expected, "success": True}
    assert type(usage.events[0]["response_time_ms"]) is int


def test_time_is_that_of_the_block(usage: Kept) -> None:
    never = threading.Event()
    with usage.measure(USER, AGENT):
        never.wait(0.05)
    with usage.measure(USER, AGENT, response_time_ms=7) as call:
        never.wait(0.05)
    with usage.measure(USER, AGENT) as call:
        call.response_time_ms = 8.4
    times = [event["response_time_ms"] for event in usage.events]
    assert times[0] >= 50
    assert times[1:] == [7, 8.4]


@pytest.mark.parametrize(
    ("error", "success"),
    [
        (ValueError, False),
        (KeyboardInterrupt, False),
        (SystemExit, False),
        (asyncio.CancelledError, False),
        (GeneratorExit, True),
    ],
)
def test_exception_leaves_the_block_and_is_no_success(
    usage: Kept, error: type[BaseException], *, success: bool
) -> None:
    raised = error("the application's")
    with pytest.raises(error) as caught, usage.measure(USER, AGENT):
        raise raised

    async def asynchronous() -> None:
        async with usage.measure(USER, AGENT) as call:
            call.response = CHAT["response"]
            raise raised

    with pytest.raises(error):
        asyncio.run(asynchronous())
    assert caught.value is raised
    assert [event["success"] for event in usage.events] == [success, success]
    assert usage.events[1]["input_tokens"] == 2006


def test_application_says_whether_it_succeeded(usage: Kept) -> None:
    with usage.measure(USER, AGENT) as call:
        call.success = False
    with usage.measure(USER, AGENT) as call:
        call.response = recorded("openai_response_failed")["response"]
    assert [event["success"] for event in usage.events] == [False, False]


def test_none_is_a_field_that_was_not_given(usage: Kept) -> None:
    with usage.measure(USER, AGENT) as call:
        call.response = CHAT["response"]
        call.model = call.success = None
    assert usage.only() == {**PAIR, **CHAT["expected"], "success": True}


def test_block_without_a_response_needs_none(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    with usage.measure(USER, AGENT):
        pass
    assert usage.only() == {**PAIR, "success": True}
    assert caplog.records == []


def test_unknown_field_is_refused_by_name(usage: Kept) -> None:
    with usage.measure(USER, AGENT) as call:
        call.costs = 5  # type: ignore[attr-defined]
    usage.track_response(USER, AGENT, CHAT["response"], costs=5)  # type: ignore[call-overload]
    assert usage.events == []
    assert usage.refused == ["costs", "costs"]


def test_block_can_be_measured_again(usage: Kept) -> None:
    measurement = usage.measure(USER, AGENT)
    with measurement as call:
        call.input_tokens = 5
    with measurement:
        pass
    assert [event.get("input_tokens") for event in usage.events] == [5, None]


def test_given_field_counts_instead_of_the_response(usage: Kept) -> None:
    assert usage.track_response(USER, AGENT, CHAT["response"], model="ours", input_tokens=None, success=False)
    assert usage.only() == {**PAIR, **CHAT["expected"], "model": "ours", "success": False}


def test_response_without_usage_is_counted_and_named_once(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    class Answer:
        pass

    responses: list[object] = [Answer(), Answer(), {"choices": []}, None]
    for response in responses:
        usage.track_response(USER, AGENT, response)
    with usage.measure(USER, AGENT) as call:
        call.response = Answer()
    with usage.measure(USER, AGENT, input_tokens=5) as call:
        call.response = b""
    assert len(usage.events) == 6
    kinds = [record.getMessage().split(" in ")[1].split(" (")[0].rsplit(".", 1)[-1] for record in caplog.records]
    assert kinds == ["Answer", "dict", "NoneType"]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_one_event_for_any_object(number: int) -> None:
    publisher = UsagePublisher(refusing_url())
    assert publisher.track_response(USER, AGENT, ODD[number])
    with publisher.measure(USER, AGENT) as call:
        call.response = ODD[number]
    (chunk,) = publisher.stream(USER, AGENT, [ODD[number]])
    assert chunk is ODD[number]
    publisher.close(0)
    assert publisher.stats().accepted == 3


def test_event_that_cannot_be_added_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Kept):
        def add(self, fields: dict[str, Any]) -> str | None:
            raise MemoryError(fields)

    with Broken().measure(USER, AGENT):
        pass
    assert Broken().track_response(USER, AGENT, CHAT["response"]) is None
    assert [record.getMessage() for record in caplog.records] == ["event not published: MemoryError"] * 2


def test_without_a_user_the_event_is_refused(usage: Kept) -> None:
    with usage.measure(agent_id=AGENT):
        pass
    assert usage.refused == ["user_id"]


def test_inner_context_adds_to_outer() -> None:
    with context(user_id=42):
        with context(agent_id="support-bot", user_id=None):
            assert current_context() == {"user_id": 42, "agent_id": "support-bot"}
        with context(user_id=43, conversation_id="c"):
            assert current_context() == {"user_id": 43, "conversation_id": "c"}
        assert current_context() == {"user_id": 42}
        current_context()["user_id"] = 44
        assert current_context() == {"user_id": 42}
    assert current_context() == {}


def test_context_ends_with_an_exception() -> None:
    with pytest.raises(ValueError, match="the application's"), context(user_id=42):
        raise ValueError("the application's")
    assert current_context() == {}


def test_context_is_used_where_nothing_is_given(usage: Kept) -> None:
    with context(**PAIR, conversation_id=USER):
        usage.track_response(response=CHAT["response"])
        usage.track_response(AGENT, response=CHAT["response"])
        measured = usage.measure()
        stream = usage.stream(chunks=[CHAT["response"]])
    # Both belong to the request in which they were begun.
    with measured:
        pass
    assert len(list(stream)) == 1
    pairs = [(event["user_id"], event["agent_id"], event["conversation_id"]) for event in usage.events]
    assert pairs == [(USER, AGENT, USER), (AGENT, AGENT, USER), (USER, AGENT, USER), (USER, AGENT, USER)]


def test_tasks_have_contexts_of_their_own() -> None:
    async def request(number: int) -> list[Any]:
        with context(user_id=number):
            await asyncio.sleep(0)
            seen = await asyncio.gather(inner(), asyncio.to_thread(current_context))
            return [item["user_id"] for item in seen]

    async def inner() -> dict[str, Any]:
        await asyncio.sleep(0)
        return current_context()

    async def main() -> list[list[Any]]:
        return await asyncio.gather(*(request(number) for number in range(5)))

    assert asyncio.run(main()) == [[number, number] for number in range(5)]


def test_context_may_end_in_another_copy() -> None:
    """Frameworks run both halves of a generator, as of a dependency, in copies of the context."""

    def dependency() -> Iterator[None]:
        with context(user_id=42):
            yield

    half = dependency()
    contextvars.copy_context().run(next, half)
    contextvars.copy_context().run(next, half, None)
    assert current_context() == {}
