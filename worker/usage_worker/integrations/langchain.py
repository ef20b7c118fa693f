"""LangChain and LangGraph: count every call to a model.

Example:
    >>> metadata = {"user_id": 42, "agent_id": "support-bot"}
    >>> graph.invoke(…, config={"callbacks": [UsageCallbackHandler(usage)], "metadata": metadata})
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import needs_extra
from usage_worker.integrations.model_calls import ModelCalls
from usage_worker.integrations.open_calls import OpenCalls
from usage_worker.publisher.call import response_time
from usage_worker.publisher.context import current_context
from usage_worker.responses import fields_of

with needs_extra("langchain"):
    from langchain_core.callbacks import BaseCallbackHandler

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from usage_worker.publisher import UsagePublisher


class _Opened(NamedTuple):
    """What the end of a call no longer shows; `began` is by the monotonic clock."""

    metadata: dict[str, Any]
    context: dict[str, Any]
    occurred_at: datetime
    began: float


class UsageCallbackHandler(BaseCallbackHandler):
    """A callback handler that publishes an event for each call to a model; it never raises.

    User, agent and conversation are those of the run's `metadata` (`user_id`, `agent_id`, `conversation_id`, or
    LangGraph's `thread_id`); else those of `usage_worker.context`.

    Args:
        usage: the publisher; it stays open.
        user_id: the user of calls that name none.
        agent_id: the agent of calls that name none.
    """

    def __init__(
        self,
        usage: UsagePublisher,
        *,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
    ) -> None:
        advice = (
            "give the run metadata={'user_id': …, 'agent_id': …} in its config, or start it in `usage_worker.context`"
        )
        self._calls = ModelCalls(usage, advice, user_id, agent_id)
        self._open: OpenCalls[UUID, _Opened] = OpenCalls()

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id, kwargs.get("metadata"))

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id, kwargs.get("metadata"))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, response, success=True)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        # A stream that its reader leaves ends with GeneratorExit or CancelledError: the model has not failed.
        self._end(run_id, kwargs.get("response"), success=not isinstance(error, Exception))

    def _begin(self, run_id: UUID, metadata: dict[str, Any] | None) -> None:
        with self._calls.contained():
            opened = _Opened(metadata or {}, current_context(), datetime.now(UTC), time.monotonic())
            self._open.begin(run_id, opened)

    def _end(self, run_id: UUID, response: LLMResult | None, *, success: bool) -> None:
        with self._calls.contained():
            if not (opened := self._open.end(run_id)):
                return
            metadata = opened.metadata
            fields = {
                "model": metadata.get("ls_model_name"),
                "provider": metadata.get("ls_provider"),
                **fields_of(response),
                "event_id": run_id,
                "occurred_at": opened.occurred_at,
                "response_time_ms": response_time((time.monotonic() - opened.began) * 1000),
                "success": success,
            }
            self._calls.publish(fields, metadata, {"conversation_id": metadata.get("thread_id")}, opened.context)
