"""Pairs that have no row in `user_agents`: it is inserted, or their events are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from usage_worker.events.refusals import Refusal

if TYPE_CHECKING:
    from usage_worker.store.batch import BatchTransaction
    from usage_worker.store.pair import Missing, Pair

Unknown = Literal["quarantine", "create"]
"""What is done with pairs whose user or agent does not exist (`USAGE_UNKNOWN`)."""


class RefusedPairsError(Exception):
    """Pairs that cannot be counted, with the reasons."""

    def __init__(self, reasons: dict[Pair, str]) -> None:
        super().__init__()
        self.reasons = reasons


def resolve(transaction: BatchTransaction, missing: list[Missing], unknown: Unknown) -> None:
    """Insert the missing rows.

    Raises:
        RefusedPairsError: the user or agent of some does not exist, and unknown pairs are quarantined.
        SettingsError: unknown pairs are to be created, and this role may not do so.
    """
    absent = [row for row in missing if not (row.user_exists and row.agent_exists)]
    if absent and unknown == "quarantine":
        raise RefusedPairsError(
            {
                (row.user_id, row.agent_id): (Refusal.NO_AGENT if row.user_exists else Refusal.NO_USER).text
                for row in absent
            }
        )
    if absent:
        transaction.create_parents(
            {row.user_id for row in absent if not row.user_exists},
            {row.agent_id for row in absent if not row.agent_exists},
        )
    transaction.insert_pairs([(row.user_id, row.agent_id) for row in missing])
