"""Whether to look for conflicts before a batch is written, or to write it and see."""

from __future__ import annotations

PESSIMISTIC_BATCHES = 50


class PessimisticMode:
    """Whether to look for one kind of conflict before a batch is written.

    A look-up costs time for each event; a conflict (a duplicate, a pair without a row, a full counter, a purge, a held
    row) costs a second attempt of the whole batch. So only the next `PESSIMISTIC_BATCHES` batches after one look first.
    """

    def __init__(self) -> None:
        self._batches = 0

    def __bool__(self) -> bool:
        return self._batches > 0

    def trip(self) -> None:
        self._batches = PESSIMISTIC_BATCHES

    def decay(self) -> None:
        self._batches = max(self._batches - 1, 0)
