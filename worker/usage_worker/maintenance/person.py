"""Whom an erasure is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from uuid import UUID


class Person(NamedTuple):
    """A user, with the application's own id where it is known."""

    id: UUID
    external_id: str | None = None
