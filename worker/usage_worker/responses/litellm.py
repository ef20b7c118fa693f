"""LiteLLM's objects: those of OpenAI, with what LiteLLM knows besides in `_hidden_params`."""

from __future__ import annotations

from usage_worker.responses.openai import CHAT
from usage_worker.responses.reading import dollars, member

COMPLETION = CHAT._replace(provider=("_hidden_params.custom_llm_provider",))
# Of the last chunk of a stream, also without `include_usage`.
USAGE = "_hidden_params.usage"


def cost_of(response: object) -> float | None:
    """Return the cost in US dollars, as LiteLLM calculated it with its own or the application's prices."""
    return dollars(member(response, "_hidden_params.response_cost"))
