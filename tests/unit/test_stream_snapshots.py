"""Streams that an application reads by other ways than their chunks: counted by what they know themselves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from tests.unit.test_counted_stream import Stream
from tests.unit.test_measuring import AGENT, PAIR, USER, Kept, usage
from tests.unit.test_responses import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

__all__ = ["usage"]


def test_text_of_an_sdk_counts_by_its_snapshot(usage: Kept) -> None:
    """An application may read `text_stream`, or `get_final_message`, instead of the events."""

    class Messages(Stream):
        text_stream = ("H", "i")
        current_message_snapshot = recorded("anthropic_message")["response"]

    with usage.stream(USER, AGENT, Messages([])) as stream:
        assert list(stream.text_stream) == ["H", "i"]
        assert stream.response == "the HTTP response"
        assert not hasattr(stream, "nothing")
    assert usage.only() == {**PAIR, "success": True, **recorded("anthropic_message")["expected"]}
    assert usage.events[0]["response_time_ms"] is not None


def test_result_of_a_stream_counts_by_its_usage(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Pydantic-ai's block gives a result that is no iterator; its text is read by a method."""

    class Result:
        model_name = "gpt-5.2"

        async def stream_text(self) -> AsyncIterator[str]:
            yield "Hi"

        def usage(self) -> dict[str, int]:
            return {"input_tokens": 3, "output_tokens": 2, "cache_read_tokens": 1}

    @asynccontextmanager
    async def run_stream() -> AsyncIterator[Any]:
        yield Result()

    async def main() -> None:
        async with usage.stream(USER, AGENT, run_stream()) as result:
            assert [text async for text in result.stream_text()] == ["Hi"]

    asyncio.run(main())
    counted = {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 1, "model": "gpt-5.2"}
    assert usage.only() == {**PAIR, "success": True, **counted}
    assert caplog.records == []


def test_stream_that_says_nothing_is_named_once(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Stream):
        pass

    for _ in range(2):
        with usage.stream(USER, AGENT, Silent([])):
            pass
    with suppress(ValueError), usage.stream(USER, AGENT, Stream([])):
        raise ValueError
    (record,) = caplog.records
    assert "no usage in" in record.getMessage()
    assert "Silent" in record.getMessage()


def test_stream_without_a_chunk_is_not_named(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """As one that is cancelled before the first."""
    with usage.stream(USER, AGENT, Stream([])) as stream:
        assert list(stream) == []
    assert len(usage.events) == 1
    assert caplog.records == []
