"""LangChain's models and LangGraph's graphs, with a provider on this machine, through the handler to Valkey."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake import FakeListLLM
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from tests.integrations.conftest import without_measurements
from tests.integrations.provider import FAILING
from usage_worker import context
from usage_worker.integrations.langchain import UsageCallbackHandler
from usage_worker.integrations.open_calls import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import BaseMessage

    from tests.integrations.conftest import Published
    from usage_worker import UsagePublisher

USER, AGENT, CONVERSATION = (str(uuid4()) for _ in range(3))
OWNER = {"user_id": USER, "agent_id": AGENT}
QUESTION = "Is it counted?"

Config = dict[str, Any]


@pytest.fixture
def handler(usage: UsagePublisher) -> UsageCallbackHandler:
    return UsageCallbackHandler(usage)


@pytest.fixture
def config(handler: UsageCallbackHandler) -> Config:
    return {"callbacks": [handler], "metadata": dict(OWNER)}


@pytest.fixture
def make_model(provider_url: str) -> Callable[..., ChatOpenAI]:
    def make(model: str = "gpt-4o") -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=f"{provider_url}/v1", api_key="none", max_retries=0, stream_usage=True)

    return make


@pytest.fixture
def model(make_model: Callable[..., ChatOpenAI]) -> ChatOpenAI:
    return make_model()


def test_call_is_an_event(published: Published, model: ChatOpenAI, config: Config) -> None:
    before = datetime.now(UTC)
    config["metadata"]["conversation_id"] = CONVERSATION
    model.invoke(QUESTION, config)
    (event,) = published.events(1)
    assert without_measurements(event, before) == {
        "user_id": UUID(USER).hex,
        "agent_id": UUID(AGENT).hex,
        "conversation_id": UUID(CONVERSATION).hex,
        "input_tokens": 812,
        "output_tokens": 160,
        "cached_input_tokens": 512,
        "reasoning_tokens": 96,
        "model": "gpt-4o-2024-08-06",
        "provider": "openai",
    }


def test_streams_and_async_calls_are_events(published: Published, model: ChatOpenAI, config: Config) -> None:
    async def main() -> None:
        await model.ainvoke(QUESTION, config)
        assert [chunk async for chunk in model.astream(QUESTION, config)]

    asyncio.run(main())
    assert list(model.stream(QUESTION, config))
    events = published.events(3)
    assert [(it["input_tokens"], it["output_tokens"], it["reasoning_tokens"]) for it in events] == [(812, 160, 96)] * 3


def test_each_call_of_a_batch_is_an_event(published: Published, model: ChatOpenAI, config: Config) -> None:
    model.batch([QUESTION] * 3, config)
    assert len({event["event_id"] for event in published.events(3)}) == 3


def test_answer_from_the_cache_costs_nothing(published: Published, model: ChatOpenAI, config: Config) -> None:
    model.cache = InMemoryCache()
    for _ in range(2):
        model.invoke(QUESTION, config)
    paid, cached = published.events(2)
    assert (paid.get("cost_usd"), cached["cost_usd"]) == (None, "0")
    assert paid["input_tokens"] == cached["input_tokens"] == 812


def test_stream_that_its_reader_leaves_has_not_failed(published: Published, model: ChatOpenAI, config: Config) -> None:
    stream = model.stream(QUESTION, config)
    next(stream)
    stream.close()
    (event,) = published.events(1)
    assert (event.get("success", True), event["model"]) == (True, "gpt-4o")


def test_failed_call_is_counted_as_such(
    published: Published, make_model: Callable[..., ChatOpenAI], config: Config
) -> None:
    with pytest.raises(openai.InternalServerError):
        make_model(FAILING).invoke(QUESTION, config)
    (event,) = published.events(1)
    assert (event["success"], event["model"], event["provider"]) == (False, FAILING, "openai")


def test_model_without_messages_is_counted(published: Published, config: Config) -> None:
    FakeListLLM(responses=["Yes."]).invoke(QUESTION, config)
    (event,) = published.events(1)
    assert event["provider"] == "fakelist"


def test_graph_is_counted_by_calls(published: Published, model: ChatOpenAI, config: Config) -> None:
    """Its thread is the conversation; a node asks in another thread, or in another task."""

    def ask(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [model.invoke(state["messages"])]}

    async def ask_async(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    config = {"callbacks": config["callbacks"], "configurable": {"thread_id": CONVERSATION}}
    for node in (ask, ask_async):
        graph = StateGraph(MessagesState).add_node("ask", node).add_edge(START, "ask").compile()
        with context(**OWNER):
            asyncio.run(graph.ainvoke({"messages": [("user", QUESTION)]}, config))
    for event in published.events(2):
        owner = [UUID(it).hex for it in (USER, AGENT, CONVERSATION)]
        assert [event["user_id"], event["agent_id"], event["conversation_id"]] == owner
        assert event["input_tokens"] == 812


def test_call_of_nobody_is_refused_and_said_once(
    published: Published, model: ChatOpenAI, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    del config["metadata"]["user_id"]
    with caplog.at_level(logging.WARNING, "usage_worker"):
        model.batch([QUESTION] * 2, config)
    assert published.usage.stats().refused == 2
    assert len([record for record in caplog.records if "metadata={'user_id'" in record.message]) == 1


def test_default_agent_is_of_calls_that_name_none(published: Published, model: ChatOpenAI) -> None:
    handler = UsageCallbackHandler(published.usage, user_id=str(uuid4()), agent_id=AGENT)
    model.invoke(QUESTION, {"callbacks": [handler], "metadata": {"user_id": USER}})
    (event,) = published.events(1)
    assert (event["user_id"], event["agent_id"]) == (UUID(USER).hex, UUID(AGENT).hex)


def test_calls_that_never_end_do_not_fill_the_memory(handler: UsageCallbackHandler) -> None:
    for _ in range(LIMIT + 10):
        handler.on_llm_start({}, [QUESTION], run_id=uuid4(), metadata=OWNER)
    assert len(handler._open._calls) == LIMIT


def test_handler_forgets_ended_calls(
    published: Published, handler: UsageCallbackHandler, model: ChatOpenAI, config: Config
) -> None:
    model.invoke(QUESTION, config)
    assert published.events(1)
    assert handler._open._calls == {}
