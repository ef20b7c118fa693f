"""The end of a run that has a time budget."""

from __future__ import annotations

import math
import time


class Deadline:
    """The moment at which a budget in seconds, counted from now, is spent; None is never spent."""

    def __init__(self, budget: float | None) -> None:
        self._end = math.inf if budget is None else time.monotonic() + budget

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return time.monotonic() >= self._end
