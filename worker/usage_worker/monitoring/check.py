"""A check of the status: its state, and where something is wrong, what and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from usage_worker.printable import REASON_LENGTH, printable


class State(StrEnum):
    """The state of a check; only `FAIL` makes the status unhealthy."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """What it needs did not answer, and the check of that server fails; or this role or user may not ask."""


# When two are joined, the later one counts.
_BY_SEVERITY = (State.OK, State.UNKNOWN, State.WARN, State.FAIL)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `reason` says in one line what was found, with the figure; `remedy` what to do where it is wrong."""

    name: str
    state: State
    reason: str = ""
    remedy: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether something is wrong."""
        return self.state in {State.WARN, State.FAIL}

    def as_dict(self) -> dict[str, str]:
        return {"check": self.name, "state": self.state.value, "reason": self.reason, "remedy": self.remedy}


def fail(name: str, reason: str, remedy: str) -> Check:
    """Return a failing check."""
    return Check(name, State.FAIL, printable(reason, REASON_LENGTH), remedy)


def warn(name: str, reason: str, remedy: str) -> Check:
    """Return a check that warns: nothing is lost or stopped yet."""
    return Check(name, State.WARN, printable(reason, REASON_LENGTH), remedy)


def ok(name: str, found: str) -> Check:
    """Return a check that passes, with what was found."""
    return Check(name, State.OK, printable(found, REASON_LENGTH))


def unknown(name: str, reason: str, remedy: str = "") -> Check:
    """Return a check that nobody could make: why, and what would make it possible."""
    return Check(name, State.UNKNOWN, printable(reason, REASON_LENGTH), remedy)


def joined(first: Check | None, second: Check) -> Check:
    """Return one check for two of the same name, as of two shards: in the worse state, with each remedy once."""
    if first is None:
        return second
    state = max(first.state, second.state, key=_BY_SEVERITY.index)
    reason = (
        first.reason if first.reason == second.reason else printable(f"{first.reason}; {second.reason}", REASON_LENGTH)
    )
    remedies = (first.remedy, "" if second.remedy in first.remedy else second.remedy)
    return Check(first.name, state, reason, "; ".join(filter(None, remedies)))
