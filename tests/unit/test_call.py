"""What an application may say about a call that is measured: the fields of an event."""

from __future__ import annotations

from usage_worker.events.columns import NAMES
from usage_worker.publisher.call import Call, CallFields

# A call is a use: neither is said of it.
_OF_RATINGS = {"type", "rating"}


def test_fields_of_a_call_are_those_of_an_event() -> None:
    assert CallFields.__annotations__.keys() == set(NAMES) - _OF_RATINGS - {"user_id", "agent_id"}


def test_attributes_of_a_call_are_those_of_an_event() -> None:
    assert Call.__annotations__.keys() == set(NAMES) - _OF_RATINGS | {"response"}
    assert all(getattr(Call, name) is None for name in Call.__annotations__)
