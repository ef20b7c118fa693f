"""Reads one response, or the chunks of a stream one after the other."""

from __future__ import annotations

from functools import lru_cache
from inspect import iscoroutinefunction
from types import MethodType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from usage_worker.events.columns import MAX_MODEL, MAX_PROVIDER
from usage_worker.responses import anthropic, google, langchain, litellm, openai, pydantic_ai
from usage_worker.responses.reading import count, first_text, member, with_parts, with_rest

if TYPE_CHECKING:
    from usage_worker.responses.reading import Counts, Family

_ANY = (openai.CHAT, google.CONTENT, pydantic_ai.RUN, anthropic.MESSAGES, openai.RESPONSES)
# Where the counts of a response stand, and the families that have them there.
_PLACES: dict[str, tuple[Family, ...]] = {
    "usage": _ANY,
    "usage_metadata": (google.CONTENT, langchain.MESSAGES),
    "usageMetadata": (google.CONTENT,),
    litellm.USAGE: (litellm.COMPLETION,),
    "context_wrapper.usage": (openai.RESPONSES,),
    "llm_output.token_usage": _ANY,
    "llm_output.usage": _ANY,
}
_FAMILIES = (litellm.COMPLETION, pydantic_ai.RUN, langchain.MESSAGES, google.CONTENT, openai.CHAT)
_MODEL = tuple(dict.fromkeys(path for family in _FAMILIES for path in family.model))
_PROVIDER = tuple(dict.fromkeys(path for family in _FAMILIES for path in family.provider))
# What the events of a stream carry: Responses, Anthropic's messages and LangChain's generations, the events of the
# helper `client.chat.completions.stream`, those of pydantic-ai.
_INNER = ("response", "message", "chunk", "result")
# At which reading begins.
_PATHS = (*_PLACES, *_MODEL, *_PROVIDER)
_ROOTS = frozenset(
    ("id", "type", "object", "status", "generations", *_INNER, *(path.partition(".")[0] for path in _PATHS))
)


def fields_of(response: object) -> dict[str, Any]:
    """Return the fields of an event that a provider's response, or a plain dictionary of its shape, says.

    Input tokens include cached and written ones, output tokens include reasoning, whatever the provider calls them.
    What cannot be read is left out; without any count, there are no fields of tokens. Never raises.
    """
    tally = Tally()
    tally.add(response)
    if not tally.has_counts:
        tally.add({"usage": response})  # the counts alone, as `response.usage`
    return tally.fields()


class Tally:
    """What the chunks of a stream have said so far; a response is a stream of one."""

    def __init__(self) -> None:
        self._family: Family | None = None
        self._counts: Counts = {}
        self._said: dict[str, Any] = {}

    @property
    def has_counts(self) -> bool:
        """Whether any chunk had counts."""
        return self._family is not None

    def add(self, chunk: object) -> None:
        """Read a chunk."""
        roots = _roots_of(chunk)
        messages = langchain.messages_of(roots)
        have_counts = [self._read(_roots_of(message)) for message in messages]
        if any(have_counts):
            self._read_names(roots)
        elif not self._read(roots):
            inner = (member(roots, path) for path in _INNER)
            any(self._read(_roots_of(part)) for part in inner if part is not None)
        if (cost := langchain.cost_of(messages or [roots])) is not None:
            self._said["cost_usd"] = cost

    def fields(self) -> dict[str, Any]:
        """Return the fields of an event; see `fields_of`."""
        counts = with_rest(with_parts(self._family.normalize(dict(self._counts)))) if self._family else {}
        return {**self._said, **{name: number for name, number in counts.items() if count(number) is not None}}

    def _read(self, response: object) -> bool:
        """Read what one object says; return whether it has counts."""
        self._read_names(response)
        family, counts = _find(response, self._family)
        if family is None:
            return False
        if family is self._family and family.additive:
            counts = {name: self._counts.get(name, 0) + counts.get(name, 0) for name in {**self._counts, **counts}}
        elif family is self._family:
            counts = {**self._counts, **counts}
        self._family, self._counts = family, counts
        if provider := family.provider_of(response):
            self._said.setdefault("provider", provider)
        return True

    def _read_names(self, response: object) -> None:
        said = {
            "model": first_text(response, _MODEL, MAX_MODEL),
            "provider": first_text(response, _PROVIDER, MAX_PROVIDER),
            "cost_usd": litellm.cost_of(response),
            "success": False if openai.has_failed(response) else None,
        }
        self._said |= {name: value for name, value in said.items() if value is not None}


def _roots_of(item: object) -> object:
    """Return a dictionary, or what an object has of the names at which reading begins.

    A pydantic model is asked only for names that it has: each other one takes its `__getattr__` 2 µs, and reading a
    chunk took 110 to 140 µs.
    """
    try:
        if isinstance(item, dict):
            return item
        names = _names_of(item) if isinstance(item, BaseModel) else _ROOTS
    except Exception:  # noqa: BLE001 - a class that pretends to be another
        names = _ROOTS
    return {name: member(item, name) for name in names}


def _names_of(model: BaseModel) -> frozenset[str]:
    own = (*vars(model), *(model.__pydantic_extra__ or ()), *(model.__pydantic_private__ or ()))
    return _ROOTS & {*own, *_roots_of_class(type(model))}


@lru_cache(maxsize=1000)
def _roots_of_class(kind: type) -> frozenset[str]:
    return frozenset(name for name in _ROOTS if hasattr(kind, name))


def _find(response: object, expected: Family | None) -> tuple[Family | None, Counts]:
    """Return the counts of a response and their family; a stream's later chunks may show fewer signs of it.

    Some servers have the names of several families, and figures in those of one: zeros count if there is nothing else.
    """
    zeros: tuple[Family | None, Counts] = None, {}
    for place, families in _PLACES.items():
        usage = _usage_at(response, place)
        if usage is None:
            continue
        for family in families:
            if (family is expected or family.matches(response, usage)) and (counts := family.counts(usage)):
                if counts.get("input_tokens") or counts.get("output_tokens"):
                    return family, counts
                zeros = zeros if zeros[0] else (family, counts)
    return zeros


def _usage_at(response: object, place: str) -> object:
    usage = member(response, place)
    if type(usage) is MethodType and not iscoroutinefunction(usage):  # pydantic-ai before 2
        try:
            return usage()
        except Exception:  # noqa: BLE001 - whatever it raises, there are no counts
            return None
    return usage
