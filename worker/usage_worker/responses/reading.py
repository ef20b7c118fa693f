"""How an object of unknown origin is read: no exception of its own leaves these functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.events.columns import MAX_DOLLARS, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TOKEN_FIELDS = frozenset(
    ("input_tokens", "output_tokens", "tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
)
Counts = dict[str, int]


class Family(NamedTuple):
    """How the objects of one family of APIs say what a call used.

    Attributes:
        matches: whether an object (first argument) with these counts (second) belongs to the family.
        names: where each count stands within the counts, as paths; the first that can be read is taken. Names that are
            not fields of an event are only used by `normalize`.
        normalize: returns the counts as the fields of an event, where input tokens include those of the cache, and
            output tokens include those of reasoning; as far as only `total` tells, `with_rest` does.
        model, provider: paths from the response to the names of the model and of who ran it.
        provider_of: who ran the model, where no path says it but the object can only come from one provider.
        additive: whether the chunks of a stream carry increments; otherwise each has the totals so far.
    """

    matches: Callable[[object, object], bool]
    names: Mapping[str, tuple[str, ...]]
    normalize: Callable[[Counts], Counts] = dict
    model: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    provider_of: Callable[[object], str | None] = lambda _: None
    additive: bool = False

    def counts(self, usage: object) -> Counts:
        """Return the counts that can be read."""
        found = ((name, first_count(usage, paths)) for name, paths in self.names.items())
        return {name: number for name, number in found if number is not None}


def member(value: object, path: str) -> object:
    """Return what stands at a path of keys and attributes, joined by dots; None where that cannot be read."""
    try:
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    except Exception:  # noqa: BLE001 - whatever a property or a mock raises
        return None
    return value


def first_count(value: object, paths: Iterable[str]) -> int | None:
    """Return the first number of tokens that stands at one of the paths."""
    numbers = (count(member(value, path)) for path in paths)
    return next((number for number in numbers if number is not None), None)


def has_count(value: object, *paths: str) -> bool:
    """Return whether a number of tokens stands at one of the paths."""
    return first_count(value, paths) is not None


def count(value: object) -> int | None:
    """Return a number of tokens; None for what is not a whole number within the bounds of an event."""
    # Not by conversion: a mock converts to 1.
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            number = int(value)
            return number if type(number) is int and number == value else None
    except Exception:  # noqa: BLE001 - of a subclass, comparisons are the application's
        return None
    return None


def dollars(value: object) -> float | None:
    """Return a cost that is a finite number within the bounds of an event."""
    return value if type(value) in (float, int) and 0 <= value <= MAX_DOLLARS else None  # type: ignore[operator,return-value]


def text(value: object, most: int) -> str | None:
    """Return a text of 1 to `most` characters that an event can hold."""
    try:
        plain = str.__str__(value) if isinstance(value, str) else ""
        plain.encode()
    except Exception:  # noqa: BLE001 - half a surrogate pair, or a class that pretends to be text
        return None
    return plain if 0 < len(plain) <= most and "\x00" not in plain else None


def first_text(value: object, paths: Iterable[str], most: int) -> str | None:
    """Return the first text that stands at one of the paths."""
    texts = (text(member(value, path), most) for path in paths)
    return next((found for found in texts if found is not None), None)


def with_parts(counts: Counts) -> Counts:
    """Return counts whose input and output are no less than their parts: a proxy that says less has left these out."""
    cached = counts.get("cached_input_tokens", 0) + counts.get("cache_write_tokens", 0)
    for whole, part in (("input_tokens", cached), ("output_tokens", counts.get("reasoning_tokens", 0))):
        if whole in counts and counts[whole] < part:
            counts[whole] += part
    return counts


def with_rest(counts: Counts) -> Counts:
    """Return counts that add up to `total`. xAI's and Gemini's output leaves reasoning out, so the rest is output.

    The rest is input where the input is missing, or where the rest is exactly its cache or the prompts of its tools.
    """
    total, tools = counts.pop("total", 0), counts.pop("tool_prompt", 0)
    read, written = counts.get("input_tokens", 0), counts.get("output_tokens", 0)
    rest, reasoning = total - read - written, counts.get("reasoning_tokens")
    if rest <= 0:
        return counts
    if not (read or written):
        return {**counts, "tokens": total}
    cache = counts.get("cached_input_tokens", 0) + counts.get("cache_write_tokens", 0)
    if not read or (rest in (cache, tools) and rest != reasoning):
        return {**counts, "input_tokens": read + rest}
    if reasoning is None and written:
        counts["reasoning_tokens"] = rest
    return {**counts, "output_tokens": written + rest}
