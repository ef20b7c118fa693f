"""The results of pydantic-ai's runs, and its ModelResponse; input includes the cache, and output includes reasoning."""

from __future__ import annotations

from usage_worker.responses.reading import Family, has_count


def _has_cache(_: object, usage: object) -> bool:
    return has_count(usage, "cache_read_tokens", "cache_write_tokens")


RUN = Family(
    matches=_has_cache,
    names={
        "input_tokens": ("input_tokens",),
        "output_tokens": ("output_tokens",),
        "cached_input_tokens": ("cache_read_tokens",),
        "cache_write_tokens": ("cache_write_tokens",),
        "reasoning_tokens": ("output_reasoning_tokens", "details.reasoning_tokens"),
    },
    model=("model_name", "response.model_name"),
    provider=("provider_name", "response.provider_name"),
)
