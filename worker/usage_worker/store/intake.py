"""The intake totals: what became of the accepted events."""

from __future__ import annotations

from typing import NamedTuple


class Intake(NamedTuple):
    """What became of events; accepted = applied + duplicate + quarantined."""

    accepted: int = 0
    applied: int = 0
    duplicate: int = 0
    quarantined: int = 0

    def __add__(self, other: object) -> Intake:
        if not isinstance(other, Intake):
            return NotImplemented
        return Intake(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def __sub__(self, before: Intake) -> Intake:
        return Intake(*(now - then for now, then in zip(self, before, strict=True)))
