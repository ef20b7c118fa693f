"""LiteLLM's objects: those of OpenAI, with what LiteLLM knows besides in `_hidden_params`."""

from __future__ import annotations

from usage_worker.responses.openai import CHAT
from usage_worker.responses.reading import dollars, first_count, member

# Of the last chunk of a stream, for some providers also without `include_usage`.
USAGE = "_hidden_params.usage"


def _is_reported(_: object, usage: object) -> bool:
    """Return whether these counts are some: LiteLLM's UnreportedUsage has zeros."""
    return bool(first_count(usage, ("total_tokens",)))


COMPLETION = CHAT._replace(matches=_is_reported, provider=("_hidden_params.custom_llm_provider",))


def cost_of(response: object) -> float | None:
    """Return the cost in US dollars, as LiteLLM calculated it with its own or the application's prices."""
    return dollars(member(response, "_hidden_params.response_cost"))
