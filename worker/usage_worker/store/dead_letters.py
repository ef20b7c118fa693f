"""The statement that deletes old dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import timedelta

    from usage_worker.store.connection import Store


class PrunedPage(NamedTuple):
    """The number of dead letters that were deleted of a page, and the last id of the page; None at the end."""

    deleted: int
    reached: int | None


def prune_dead_letters(store: Store, task: str, older_than: timedelta, after: int, rows: int) -> PrunedPage:
    """Delete those of the `rows` dead letters after an id that are older than `older_than`, replayed or not."""
    parameters = {"older_than": older_than, "after": after, "rows": rows}
    with sole_transaction(store, task) as connection:
        row = connection.execute(query("prune_dead_letters"), parameters).fetchone()
    return PrunedPage(*row) if row else PrunedPage(0, None)
