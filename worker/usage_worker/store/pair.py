"""A pair of a user and an agent, and what may keep its events from being counted."""

from __future__ import annotations

from typing import NamedTuple

Pair = tuple[str, str]
"""A user and an agent, as texts of 32 hexadecimal digits."""


class Missing(NamedTuple):
    """A pair without a row, and whether its user and its agent exist."""

    user_id: str
    agent_id: str
    user_exists: bool
    agent_exists: bool


class FullCounter(NamedTuple):
    """A pair of which a counter would exceed the greatest value of its column."""

    user_id: str
    agent_id: str
    counter: str
    most: str
