"""What providers' responses say, by recorded ones: a file in `tests/responses` is a case."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_worker.events.columns import MAX_TOKENS
from usage_worker.responses import TOKEN_FIELDS, Tally, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = sorted(Path(__file__).parents[1].joinpath("responses").glob("*.json"))


def recorded(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(Path(RECORDED[0].parent, f"{name}.json").read_text("utf-8"))
    return case


def said_by(case: dict[str, Any], made: Callable[[Any], Any] = lambda values: values) -> dict[str, Any]:
    """Return what the objects made of a case say."""
    if "response" in case:
        return fields_of(made(case["response"]))
    tally = Tally()
    for chunk in case["chunks"]:
        tally.add(made(chunk))
    return tally.fields()


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_recorded_response(file: Path) -> None:
    case = recorded(file.stem)
    assert said_by(case) == case["expected"]


class Attributes:
    """A dictionary as an object of an SDK whose classes nobody knows."""

    def __init__(self, values: dict[str, Any]) -> None:
        vars(self).update({name: as_attributes(value) for name, value in values.items()})


def as_attributes(value: Any) -> Any:
    if isinstance(value, list):
        return [as_attributes(item) for item in value]
    return Attributes(value) if isinstance(value, dict) else value


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_objects_are_read_like_dictionaries(file: Path) -> None:
    case = recorded(file.stem)
    assert said_by(case, as_attributes) == case["expected"]


class Level(IntEnum):
    HIGH = 7


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (12, 12),
        (12.0, 12),
        (0, 0),
        (Level.HIGH, 7),
        (MAX_TOKENS, MAX_TOKENS),
        *((odd, None) for odd in (-1, 1.5, None, True, "12", float("nan"), float("inf"), MAX_TOKENS + 1, 10**400)),
        *((odd, None) for odd in (Decimal(12), (), MagicMock(), b"12", 12j)),
    ],
)
def test_count_that_cannot_be_read_is_left_out(value: object, number: int | None) -> None:
    fields = fields_of({"model": "m", "usage": {"prompt_tokens": value, "completion_tokens": 5}})
    assert fields == {"model": "m", "output_tokens": 5} | ({} if number is None else {"input_tokens": number})


@pytest.mark.parametrize("model", ["", "m" * 201, "a\x00b", "\ud800", 5, None, MagicMock(), b"m"])
def test_model_that_no_event_can_hold_is_left_out(model: object) -> None:
    assert fields_of({"model": model, "usage": {"prompt_tokens": 1}}) == {"input_tokens": 1}


class Raising:
    """An object whose every attribute, and comparison, raises."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)

    def __bool__(self) -> NoReturn:
        raise RuntimeError

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


class RaisingNumber(int):
    def __le__(self, other: object) -> NoReturn:
        raise RuntimeError

    def __int__(self) -> NoReturn:
        raise RuntimeError


class RaisingDict(dict[str, Any]):
    def get(self, *_: object) -> NoReturn:
        raise RuntimeError


class RaisingMethod:
    def usage(self) -> NoReturn:
        raise RuntimeError


class Endless:
    """An object every attribute of which is itself."""

    def __getattr__(self, name: str) -> Endless:
        return self


ODD = [
    *(Raising(), RaisingDict(usage={}), RaisingMethod(), Endless(), MagicMock(), Mock(), AsyncMock()),
    *({"usage": Raising()}, {"usage": {"prompt_tokens": RaisingNumber(5)}}, {"generations": Raising()}),
    *({"generations": [[Raising()], [], None, 5]}, {"model": Raising(), "usage": RaisingDict()}),
    *(None, "text", b"bytes", 5, [], object(), type, iter([]), {"usage": "none"}, {"usage": []}, {1: 2}),
]


@pytest.mark.parametrize("number", range(len(ODD)))  # pytest would look at the objects themselves
def test_odd_object_says_nothing(number: int) -> None:
    assert fields_of(ODD[number]) == {}


NAMES = sorted(
    {
        *("usage", "usage_metadata", "usageMetadata", "response", "message", "generations", "type", "object", "status"),
        *("model", "_hidden_params", "response_cost", "llm_output", "token_usage", "total_tokens"),
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens"),
        *("prompt_tokens_details", "cached_tokens", "input_token_details", "cache_read", "thoughts_token_count"),
        *("prompt_token_count", "cache_read_tokens", "reasoning_tokens", "completion_tokens_details"),
    }
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("message"))
OBJECTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
)


@given(st.lists(OBJECTS, max_size=4))
def test_whatever_is_read_has_the_bounds_of_an_event(chunks: list[Any]) -> None:
    tally = Tally()
    for chunk in chunks:
        tally.add(chunk)
    fields = tally.fields()
    for name in TOKEN_FIELDS & fields.keys():
        assert type(fields[name]) is int
        assert 0 <= fields[name] <= MAX_TOKENS
    for whole, part in (("input_tokens", "cached_input_tokens"), ("output_tokens", "reasoning_tokens")):
        assert fields.get(whole, MAX_TOKENS) >= fields.get(part, 0)


def reasoning(tokens: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": tokens}}


def test_method_of_usage_is_called() -> None:
    """In pydantic-ai 1, `result.usage()`."""

    class Result:
        def usage(self) -> dict[str, int]:
            return {"input_tokens": 3, "output_tokens": 2, "cache_read_tokens": 1}

    assert fields_of(Result()) == {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 1}


@pytest.mark.parametrize(("costs", "cost"), [((0, 0), 0), ((0.5, 0.25), 0.75), ((0, None), None), ((None, None), None)])
def test_cost_of_a_result_is_that_of_all_its_messages(costs: tuple[float | None, ...], cost: float | None) -> None:
    """Where the cache of langchain-core has answered only some prompts, the cost of the others is unknown."""
    usage = {"input_tokens": 3, "output_tokens": 2}
    counted = [usage if it is None else {**usage, "total_cost": it} for it in costs]
    fields = fields_of({"generations": [[{"message": {"usage_metadata": usage}}] for usage in counted]})
    assert (fields["input_tokens"], fields.get("cost_usd")) == (6, cost)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"completion_tokens": 20, "total_tokens": 30}, (10, 20, None, None)),
        ({"prompt_tokens": 10, "total_tokens": 30}, (10, 20, None, None)),
        ({"prompt_tokens": 0, "total_tokens": 26}, (0, None, None, 26)),
        (
            {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 20, **reasoning(0)},
            (5, 15, 0, None),
        ),
        # LiteLLM's, of an answer of Gemini that has searched.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 2150,
                "prompt_tokens_details": {"tool_use_tokens": 2000},
            },
            (2100, 50, None, None),
        ),
        # xAI's, with a cache as large as what was thought.
        (
            {
                "prompt_tokens": 512,
                "completion_tokens": 200,
                "total_tokens": 840,
                "prompt_tokens_details": {"cached_tokens": 128},
                **reasoning(128),
            },
            (512, 328, 128, None),
        ),
    ],
)
def test_rest_up_to_the_total_goes_where_it_is_missing(usage: dict[str, Any], counts: tuple[int | None, ...]) -> None:
    fields = fields_of({"usage": usage})
    assert tuple(map(fields.get, ("input_tokens", "output_tokens", "reasoning_tokens", "tokens"))) == counts


@pytest.mark.parametrize("total", [0, 5, 11, 12])
def test_total_that_is_no_more_than_the_sum_changes_nothing(total: int) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": total}
    assert fields_of({"usage": usage}) == {"input_tokens": 9, "output_tokens": 3}
