"""The publisher in an event loop: that of asyncio and that of trio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import trio

from tests.integration.test_publisher import events_in, hanging_server, refusing_url
from tests.integration.test_publisher_faults import no_new_threads
from usage_worker import UsagePublisher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    Run = Callable[[Callable[[], Awaitable[Any]]], Any]

USER, AGENT = uuid4(), uuid4()


def asyncio_run(function: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await function()

    return asyncio.run(main())


@pytest.fixture(params=[asyncio_run, trio.run], ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


def test_flush_and_close_wait_until_redis_has_the_events(run: Run, redis_url: str, redis_client: redis.Redis) -> None:
    async def main() -> None:
        async with UsagePublisher(redis_url, linger=60) as usage:
            for _ in range(1_200):
                usage.track(USER, AGENT)
            assert await usage.aflush()
            assert events_in(redis_client) == usage.stats().sent == 1_200
            usage.track(USER, AGENT)
        assert usage.track(USER, AGENT) is None
        assert (usage.stats().sent, usage.stats().dropped) == (1_201, 1)
        await usage.aclose()
        assert await usage.aflush()

    run(main)
    assert events_in(redis_client) == 1_201


def test_flush_without_answer_returns_false_and_close_drops(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        usage = UsagePublisher(refusing_url(), linger=60)
        usage.track(USER, AGENT)
        assert not await usage.aflush(0.05)
        await usage.aclose(0.05)
        assert (usage.stats().buffered, usage.stats().dropped) == (0, 1)
        assert not await usage.aflush(3600)  # never sent, so that there is nothing to wait for

    run(main)
    assert "1 events dropped at close" in caplog.text


def test_event_loop_goes_on_while_redis_hangs(run: Run) -> None:
    """Three waits of an hour end when the fourth does; each would block the loop if it blocked its thread."""

    async def main() -> None:
        with hanging_server() as url:
            usage = UsagePublisher(url, linger=0)
            usage.track(USER, AGENT)
            waits = [usage.aflush(3600) for _ in range(3)]
            answers = await together([*waits, closed_meanwhile(usage)])
        assert answers == [False, False, False, None]

    async def closed_meanwhile(usage: UsagePublisher) -> None:
        assert not await usage.aflush(0.1)
        usage.close(0)

    async def together(functions: list[Any]) -> list[Any]:
        if run is asyncio_run:
            return await asyncio.gather(*functions)
        answers: list[Any] = [None] * len(functions)

        async def keep(place: int) -> None:
            answers[place] = await functions[place]

        async with trio.open_nursery() as nursery:
            for place in range(len(functions)):
                nursery.start_soon(keep, place)
        return answers

    run(main)


def test_cancelled_flush_leaves_nothing_behind() -> None:
    async def main() -> None:
        usage = UsagePublisher(refusing_url(), linger=60)
        usage.track(USER, AGENT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(usage.aflush(3600), 0.05)
        assert usage.stats().buffered == 1
        usage.close(0)

    asyncio.run(main())


def test_flush_sends_where_no_thread_can_start(run: Run, redis_url: str, redis_client: redis.Redis) -> None:
    async def main() -> None:
        usage = UsagePublisher(redis_url, linger=60)
        with no_new_threads():
            usage.track(USER, AGENT)
            assert await usage.aflush()
            usage.track(USER, AGENT)
            await usage.aclose()

    run(main)
    assert events_in(redis_client) == 2
