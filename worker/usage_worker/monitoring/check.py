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
    """What it needs did not answer; the check of that server fails."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `reason` says in one line what is wrong, with the figure; `remedy` what to do."""

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


def joined(first: Check | None, second: Check) -> Check:
    """Return one check for two problems of the same name, as of two shards."""
    if first is None:
        return second
    state = State.FAIL if State.FAIL in {first.state, second.state} else State.WARN
    return Check(first.name, state, printable(f"{first.reason}; {second.reason}", REASON_LENGTH), first.remedy)
