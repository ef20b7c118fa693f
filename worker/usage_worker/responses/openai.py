"""OpenAI's chat completions and embeddings, which many other servers imitate, and its Responses.

Cached tokens are part of the input and reasoning is part of the output already. Many providers answer in these shapes,
so the shape does not say who ran the model.
"""

from __future__ import annotations

from usage_worker.responses.reading import Family, has_count, member, text


def _is_chat(_: object, usage: object) -> bool:
    return has_count(usage, "prompt_tokens", "completion_tokens")


def _has_tokens(_: object, usage: object) -> bool:
    return has_count(usage, "input_tokens", "output_tokens", "total_tokens")


CHAT = Family(
    matches=_is_chat,
    names={
        "input_tokens": ("prompt_tokens",),
        "output_tokens": ("completion_tokens",),
        # LiteLLM repeats Anthropic's names beside them; DeepSeek has names of its own.
        "cached_input_tokens": (
            "prompt_tokens_details.cached_tokens",
            "cache_read_input_tokens",
            "prompt_cache_hit_tokens",
        ),
        "cache_write_tokens": (
            "prompt_tokens_details.cache_write_tokens",
            "prompt_tokens_details.cache_creation_tokens",
            "cache_creation_input_tokens",
        ),
        "reasoning_tokens": ("completion_tokens_details.reasoning_tokens",),
        # LiteLLM's, of Gemini's tools: it is part of the total alone.
        "tool_prompt": ("prompt_tokens_details.tool_use_tokens",),
        "total": ("total_tokens",),
    },
    model=("model",),
    provider=("provider",),  # OpenRouter's
)
# Also images, transcriptions, and the sums of openai-agents.
RESPONSES = Family(
    matches=_has_tokens,
    names={
        "input_tokens": ("input_tokens",),
        "output_tokens": ("output_tokens",),
        "cached_input_tokens": ("input_tokens_details.cached_tokens", "input_token_details.cached_tokens"),
        "cache_write_tokens": ("input_tokens_details.cache_write_tokens",),
        "reasoning_tokens": ("output_tokens_details.reasoning_tokens",),
        "total": ("total_tokens",),
    },
)


def has_failed(response: object) -> bool:
    """Return whether this is a Response that ended with an error, which the SDK does not raise."""
    return text(member(response, "object"), 20) == "response" and text(member(response, "status"), 20) == "failed"
