"""What an application's `before_send` and `on_error` get, and that nothing which they do reaches the application."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.unit.sockets import refusing_url
from usage_worker import EventLoss, UsagePublisher
from usage_worker.events.columns import NAMES
from usage_worker.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, AGENT = uuid4(), uuid4()


@contextmanager
def publisher(**arguments: Any) -> Iterator[UsagePublisher]:
    """Open a publisher whose events wait, since nothing listens at its URL."""
    usage = UsagePublisher(refusing_url(), linger=60, **arguments)
    try:
        yield usage
    finally:
        usage.close(0)


def test_before_send_gets_all_fields_and_returns_what_is_sent() -> None:
    seen: list[dict[str, Any]] = []

    def rename(event: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(event))
        return event | {"model": f"our {event['model']}", "conversation_id": None}

    with publisher(before_send=rename) as usage, capture() as events:
        identity = usage.track(str(USER), AGENT.hex, model="x", cost_usd=0.25, conversation_id=USER, input_tokens="3")  # type: ignore[arg-type]
    (before,), (after,) = seen, events
    assert tuple(before) == NAMES == tuple(after)
    assert (before["event_id"], before["user_id"], before["agent_id"]) == (UUID(identity), USER, AGENT)
    assert (before["cost_usd"], before["input_tokens"], before["messages"]) == (Decimal("0.25"), 3, 1)
    assert (before["success"], before["rating"]) == (True, None)
    assert abs((before["occurred_at"] - datetime.now(UTC)).total_seconds()) < 60
    assert after == before | {"model": "our x", "conversation_id": None}


def test_before_send_sees_events_of_every_method_and_drops_them_counted() -> None:
    kinds = []

    def drop(event: dict[str, Any]) -> None:
        kinds.append(event["type"])

    with publisher(before_send=drop, on_error=pytest.fail) as usage:
        assert usage.track(USER, AGENT) is None
        assert usage.rate(USER, AGENT, 4.5) is None
        assert usage.add({"user_id": USER, "agent_id": AGENT}) is None
        stats = usage.stats()
    assert kinds == ["usage", "rating", "usage"]
    assert (stats.filtered, stats.accepted, stats.dropped, stats.refused) == (3, 0, 0, 0)


def test_unchanged_event_stays_as_it_is() -> None:
    """One with a key and no time has the time of its first delivery, also behind a filter."""
    fields: dict[str, Any] = {"user_id": USER, "agent_id": AGENT, "event_id": "key", "cost_usd": "0.0000000001"}
    with publisher(before_send=lambda event: event) as usage, capture() as events:
        identity = usage.add(fields)
        assert usage.rate(USER, AGENT, "4.5")
    with publisher() as plain, capture() as expected:
        assert plain.add(fields) == identity
    assert events[:1] == expected
    assert (events[0]["occurred_at"], events[1]["rating"]) == (None, Decimal("4.5"))


@pytest.mark.parametrize("answer", ["text", {"user_id": "x"}, {}, [1]])
def test_answer_of_before_send_is_checked_like_any_event(answer: Any) -> None:
    losses: list[EventLoss] = []
    with publisher(before_send=lambda _: answer, on_error=losses.append) as usage:
        assert usage.track(USER, AGENT) is None
        assert usage.stats().refused == 1
    assert [loss.kind for loss in losses] == ["refused"]


def test_raising_before_send_lets_nothing_out(caplog: pytest.LogCaptureFixture) -> None:
    losses: list[EventLoss] = []

    def fail(_: object) -> Any:
        raise LookupError(f"no such tenant: {USER}")

    with publisher(before_send=fail, on_error=losses.append) as usage:
        for _ in range(100):
            assert usage.track(USER, AGENT) is None
        assert (usage.stats().refused, usage.stats().accepted) == (100, 0)
    assert caplog.text.count("event refused: before_send raised LookupError") == 1
    assert {loss.reason for loss in losses} == {"before_send raised LookupError"}
    assert str(USER) not in caplog.text


def test_answer_that_cannot_be_compared_is_refused() -> None:
    class Hostile:
        def __eq__(self, _: object) -> bool:
            raise RuntimeError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    with publisher(before_send=lambda event: event | {"model": Hostile()}) as usage:
        assert usage.track(USER, AGENT, model="x") is None
        assert usage.stats().refused == 1


def test_on_error_gets_refused_events_as_they_were_given() -> None:
    losses: list[EventLoss] = []
    with publisher(on_error=losses.append) as usage:
        usage.track("not a uuid", AGENT, input_tokens=3)
        usage.add({"user_id": USER, "agent": 1})
        usage.add("nothing")  # type: ignore[arg-type]
    assert [(loss.kind, loss.count) for loss in losses] == [("refused", 1)] * 3
    assert losses[0].reason.startswith("user_id: ")
    given = losses[0].event or {}
    assert (given["user_id"], given["agent_id"], given["input_tokens"]) == ("not a uuid", AGENT, 3)
    assert (losses[1].event, losses[2].event) == ({"user_id": USER, "agent": 1}, {})


def test_on_error_gets_dropped_events() -> None:
    losses: list[EventLoss] = []
    with publisher(on_error=losses.append, buffer_bytes=2_000) as usage:
        tracked = [usage.track(USER, AGENT, input_tokens=number) for number in range(20)]
        assert [loss.count for loss in losses] == [1] * tracked.count(None)
        assert [loss.event and loss.event["input_tokens"] for loss in losses] == [
            number for number, identity in enumerate(tracked) if identity is None
        ]
        assert {loss.kind for loss in losses} == {"dropped"}
        assert losses[0].reason.startswith("the buffer is full")
        waiting = usage.stats().buffered
        losses.clear()
        usage.close(0)
        assert [(loss.kind, loss.count, loss.event) for loss in losses] == [("dropped", waiting, None)]
        usage.track(USER, AGENT)
        assert losses[1].reason == "the publisher is closed"
        assert usage.stats().dropped == tracked.count(None) + waiting + 1


def test_each_publisher_of_a_sender_is_told_of_its_own_events() -> None:
    url, losses = refusing_url(), {1: [0], 2: [0]}
    first = UsagePublisher(url, on_error=lambda loss: losses[1].append(loss.count))
    second = UsagePublisher(url, on_error=lambda loss: losses[2].append(loss.count))
    for usage in (first, second, first):
        usage.track(USER, AGENT)
    second.close(0)
    first.close(0)
    assert losses == {1: [0, 2], 2: [0, 1]}


def test_forgotten_publisher_is_collected_although_its_hook_refers_to_it() -> None:
    class Application:
        def __init__(self) -> None:
            self.usage = UsagePublisher(refusing_url(), on_error=self.on_error, before_send=self.before_send)

        def on_error(self, _: EventLoss) -> None:
            self.usage.track(USER, AGENT)

        def before_send(self, event: dict[str, Any]) -> dict[str, Any]:
            return event

    application = weakref.ref(Application())
    gc.collect()
    assert application() is None


def test_raising_on_error_is_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: EventLoss) -> None:
        raise RuntimeError(f"of {USER}")

    with publisher(on_error=fail) as usage:
        for _ in range(100):
            assert usage.track("wrong", AGENT) is None
        assert usage.stats().refused == 100
    assert caplog.text.count("on_error raised RuntimeError") == 1
    assert str(USER) not in caplog.text


def test_hooks_that_publish_are_not_called_for_their_own_events() -> None:
    calls = {"on_error": 0, "before_send": 0}

    def on_error(_: EventLoss) -> None:
        calls["on_error"] += 1
        assert usage.track("wrong", AGENT) is None  # refused: counted, and not told again
        usage.track(USER, AGENT)

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        calls["before_send"] += 1
        usage.track(USER, AGENT)
        usage.flush(0)
        usage.stats()
        return event

    with publisher(on_error=on_error, before_send=before_send) as usage:
        usage.track("wrong", AGENT)
        # Each event that is not its own goes through the filter, also one of `on_error`.
        assert (usage.stats().refused, usage.stats().accepted, calls) == (2, 2, {"on_error": 1, "before_send": 1})
        usage.track(USER, AGENT)
        assert (usage.stats().accepted, calls) == (4, {"on_error": 1, "before_send": 2})
    # On the loss at the end it publishes to a publisher that is closed.
    assert (calls, usage.stats().dropped) == ({"on_error": 2, "before_send": 3}, 6)


def test_hooks_of_several_threads_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(event: dict[str, Any]) -> dict[str, Any]:
        both.wait()
        return event

    with publisher(before_send=meet) as usage:
        threads = [threading.Thread(target=usage.track, args=(USER, AGENT)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert usage.stats().accepted == 2
