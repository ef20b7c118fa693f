"""Spans of the OpenTelemetry SDK and of pydantic-ai, through the processor to Valkey."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from pydantic_ai import Agent
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from tests.integrations.conftest import without_measurements
from usage_worker import context
from usage_worker.integrations.open_calls import LIMIT
from usage_worker.integrations.opentelemetry import UsageSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Tracer

    from tests.integrations.conftest import Published
    from usage_worker import UsagePublisher

USER, AGENT, CONVERSATION = (str(uuid4()) for _ in range(3))
OWNER = {"user_id": USER, "agent_id": AGENT}
CHAT: dict[str, str | int] = {"gen_ai.operation.name": "chat", "user.id": USER, "gen_ai.agent.id": AGENT}
TOKENS: dict[str, str | int] = {"gen_ai.usage.input_tokens": 812, "gen_ai.usage.output_tokens": 160}


@pytest.fixture
def processor(usage: UsagePublisher) -> UsageSpanProcessor:
    return UsageSpanProcessor(usage)


@pytest.fixture
def tracers(processor: UsageSpanProcessor) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    yield provider
    provider.shutdown()


@pytest.fixture
def tracer(tracers: TracerProvider) -> Tracer:
    return tracers.get_tracer("tests")


@pytest.fixture
def agent(tracers: TracerProvider) -> Agent:
    settings = InstrumentationSettings(tracer_provider=tracers)
    return Agent(TestModel(), name=AGENT, capabilities=[Instrumentation(settings)])


def test_span_is_an_event(published: Published, tracer: Tracer) -> None:
    before = datetime.now(UTC)
    with tracer.start_as_current_span("chat gpt-4o", attributes=CHAT) as span:
        span.set_attributes(
            TOKENS
            | {
                "gen_ai.conversation.id": CONVERSATION,
                "gen_ai.usage.cache_read.input_tokens": 512,
                "gen_ai.usage.cache_creation.input_tokens": 50,
                "gen_ai.usage.reasoning.output_tokens": 96,
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.response.model": "gpt-4o-2024-08-06",
                "gen_ai.provider.name": "openai",
                "gen_ai.response.id": "chatcmpl-1",
            }
        )
    (event,) = published.events(1)
    assert without_measurements(event, before) == {
        "user_id": UUID(USER).hex,
        "agent_id": UUID(AGENT).hex,
        "conversation_id": UUID(CONVERSATION).hex,
        "input_tokens": 812,
        "output_tokens": 160,
        "cached_input_tokens": 512,
        "cache_write_tokens": 50,
        "reasoning_tokens": 96,
        "model": "gpt-4o-2024-08-06",
        "provider": "openai",
    }


def test_other_names_are_read(published: Published, tracer: Tracer) -> None:
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.system": "openai",
        "gen_ai.usage.prompt_tokens": 812,
        "gen_ai.usage.completion_tokens": 160,
        "gen_ai.usage.cache_read_input_tokens": 512,
        "gen_ai.usage.cache_creation_input_tokens": 50,
        "enduser.id": USER,
        "gen_ai.agent.name": AGENT,
    }
    tracer.start_span("call", attributes=attributes).end()
    (event,) = published.events(1)
    assert (event["input_tokens"], event["output_tokens"], event["provider"]) == (812, 160, "openai")
    assert (event["cached_input_tokens"], event["cache_write_tokens"]) == (512, 50)
    assert (event["user_id"], event["agent_id"]) == (UUID(USER).hex, UUID(AGENT).hex)


def test_input_includes_a_cache_that_the_attributes_exclude(published: Published, tracer: Tracer) -> None:
    """As those that OpenLLMetry sets for Bedrock."""
    cache = {"gen_ai.usage.cache_read_input_tokens": 900, "gen_ai.usage.cache_creation_input_tokens": 50}
    attributes = CHAT | cache | {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 20}
    tracer.start_span("call", attributes=attributes).end()
    (event,) = published.events(1)
    assert (event["input_tokens"], event["cached_input_tokens"], event["cache_write_tokens"]) == (960, 900, 50)
    assert event["output_tokens"] == 20


def test_values_that_no_event_can_hold_are_left_out(
    published: Published, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    odd: dict[str, Any] = {
        "gen_ai.usage.input_tokens": -1,
        "gen_ai.usage.cache_read_input_tokens": 10.5,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.conversation.id": "a\x00b",
        "gen_ai.request.model": "m" * 201,
        "gen_ai.provider.name": "p" * 101,
    }
    before = datetime.now(UTC)
    tracer.start_span("call", attributes=CHAT | odd).end()
    (event,) = published.events(1)
    counted = {"user_id": UUID(USER).hex, "agent_id": UUID(AGENT).hex, "output_tokens": 20}
    assert without_measurements(event, before) == counted
    names = "cached_input_tokens, conversation_id, input_tokens, model, provider"
    assert f"a model call is counted without {names}" in caplog.text


def test_two_processors_give_a_span_one_identity(published: Published, tracers: TracerProvider) -> None:
    tracers.add_span_processor(UsageSpanProcessor(published.usage))
    tracers.get_tracer("tests").start_span("call", attributes=CHAT | TOKENS).end()
    first, second = published.events(2)
    assert first == second


def test_only_calls_of_models_are_counted(published: Published, tracer: Tracer) -> None:
    for operation in ("invoke_agent", "create_agent", "execute_tool", "invoke_workflow", "retrieval", ""):
        tracer.start_span("other", attributes=CHAT | TOKENS | {"gen_ai.operation.name": operation}).end()
    tracer.start_span("GET /").end()
    for operation in ("chat", "text_completion", "generate_content", "embeddings"):
        tracer.start_span("call", attributes=CHAT | TOKENS | {"gen_ai.operation.name": operation}).end()
    assert len(published.events(4)) == 4
    assert published.usage.stats().refused == 0


def test_call_within_the_span_of_another_counts_once(published: Published, tracer: Tracer) -> None:
    """A framework and the SDK that it calls may both be instrumented."""
    with (
        tracer.start_as_current_span("chat", attributes=CHAT | TOKENS) as outer,
        tracer.start_as_current_span("POST"),
        tracer.start_as_current_span("chat", attributes=CHAT | TOKENS),
    ):
        outer.set_attribute("gen_ai.response.model", "outer")
    (event,) = published.events(1)
    assert event["model"] == "outer"


def test_agent_that_a_call_starts_has_calls_of_its_own(published: Published, tracer: Tracer) -> None:
    with (
        tracer.start_as_current_span("chat", attributes=CHAT | TOKENS),
        tracer.start_as_current_span("tool", attributes={"gen_ai.operation.name": "execute_tool"}),
        tracer.start_as_current_span("chat", attributes=CHAT | TOKENS),
    ):
        pass
    assert len(published.events(2)) == 2


def test_owner_is_of_the_nearest_span_above(published: Published, tracer: Tracer) -> None:
    request = {"user.id": USER, "gen_ai.agent.id": str(uuid4()), "gen_ai.conversation.id": CONVERSATION}
    with (
        tracer.start_as_current_span("POST /ask", attributes=request),
        tracer.start_as_current_span("agent", attributes={"gen_ai.agent.id": AGENT}),
        tracer.start_as_current_span("work"),
    ):
        tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    (event,) = published.events(1)
    owner = [UUID(it).hex for it in (USER, AGENT, CONVERSATION)]
    assert [event["user_id"], event["agent_id"], event["conversation_id"]] == owner


def test_context_at_the_start_holds(published: Published, tracer: Tracer) -> None:
    """Of the span itself, or of one above it: a thread starts without the context."""
    with context(**OWNER):
        left = tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"})
        above = set_span_in_context(tracer.start_span("POST /ask"))
    left.end()

    def call() -> None:
        tracer.start_span("chat", above, attributes={"gen_ai.operation.name": "chat"}).end()

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert {(it["user_id"], it["agent_id"]) for it in published.events(2)} == {(UUID(USER).hex, UUID(AGENT).hex)}


def test_span_with_an_error_has_failed(published: Published, tracer: Tracer) -> None:
    span = tracer.start_span("chat", attributes=CHAT)
    span.set_status(Status(StatusCode.ERROR))
    span.end()
    (event,) = published.events(1)
    assert event["success"] is False


def test_span_of_nobody_is_refused_and_said_once(
    published: Published, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "usage_worker"):
        for _ in range(2):
            tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat", "user.id": USER}).end()
    assert published.usage.stats().refused == 2
    assert len([record for record in caplog.records if "gen_ai.agent.id" in record.message]) == 1


def test_spans_that_never_end_do_not_fill_the_memory(processor: UsageSpanProcessor, tracer: Tracer) -> None:
    spans = [tracer.start_span("left open") for _ in range(LIMIT + 10)]
    assert len(processor._open._calls) == LIMIT
    spans[0].end()


def test_flush_waits_for_valkey(published: Published, tracers: TracerProvider) -> None:
    tracers.get_tracer("tests").start_span("chat", attributes=CHAT | TOKENS).end()
    assert tracers.force_flush()
    assert published.usage.stats().sent == 1


def test_agent_of_pydantic_ai_is_counted_by_calls(published: Published, agent: Agent) -> None:
    def weather(city: str) -> str:
        return f"dry in {city}"

    agent.tool_plain(weather)
    with context(user_id=USER):
        result = agent.run_sync("Is it counted?")
    asking, answering = published.events(2)
    for event in (asking, answering):
        assert (event["user_id"], event["agent_id"]) == (UUID(USER).hex, UUID(AGENT).hex)
        assert UUID(event["conversation_id"])
        assert (event["model"], event["provider"]) == ("test", "test")
    used = result.usage
    assert asking["input_tokens"] + answering["input_tokens"] == used.input_tokens
    assert asking["output_tokens"] + answering["output_tokens"] == used.output_tokens


def test_parts_of_the_tokens_of_pydantic_ai_are_counted(published: Published, agent: Agent) -> None:
    def answer(*_: object) -> ModelResponse:
        parts = {"cache_read_tokens": 512, "cache_write_tokens": 50, "details": {"reasoning_tokens": 96}}
        return ModelResponse([TextPart("Yes.")], usage=RequestUsage(input_tokens=812, output_tokens=160, **parts))

    with context(user_id=USER):
        agent.run_sync("Is it counted?", model=FunctionModel(answer))
    (event,) = published.events(1)
    assert (event["input_tokens"], event["cached_input_tokens"], event["cache_write_tokens"]) == (812, 512, 50)
    assert (event["output_tokens"], event["reasoning_tokens"]) == (160, 96)


def test_stream_of_pydantic_ai_is_counted(published: Published, agent: Agent) -> None:
    async def main() -> Any:
        with context(user_id=USER):
            async with agent.run_stream("Is it counted?") as answer:
                assert [text async for text in answer.stream_text()]
        return answer.usage

    used = asyncio.run(main())
    (event,) = published.events(1)
    assert (event["input_tokens"], event["output_tokens"]) == (used.input_tokens, used.output_tokens)


def test_failed_call_of_pydantic_ai_is_counted_as_such(published: Published, agent: Agent) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("the provider is away")

    with context(user_id=USER), pytest.raises(RuntimeError, match="away"):
        agent.run_sync("Is it counted?", model=FunctionModel(fail))
    (event,) = published.events(1)
    assert event["success"] is False
