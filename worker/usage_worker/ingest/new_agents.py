"""Agents that are to be created, and external ids of agents: committed before the transaction that counts the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usage_worker.errors import ConcurrencyError
from usage_worker.ingest.made_ids import keep_ids
from usage_worker.store import OUTAGES, batch_transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from usage_worker.ingest.batch import Batch
    from usage_worker.store import BatchTransaction, Missing, Store

# Of each set, some hundred bytes each. A process that knows more forgets them, and looks again.
_MOST_KNOWN: Final = 10_000


class AbsentAgentsError(ConcurrencyError):
    """agents are created before the batch is tried again."""


class NewAgents:
    """Creates agents, and keeps their external ids, in short transactions.

    A user's events are in one shard, those of an agent in all. A batch that created an agent would keep the batches of
    other shards waiting until it commits, and these would set the agent's events aside.

    An agent that was created stays, also where its events turn out to be duplicates or are refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: set[str] = set()
        self._absent: set[str] = set()
        self._tried: set[str] = set()

    def prepare(self, batch: Batch) -> None:
        """Keep the external ids of a batch's agents, once in this process; create those that its last attempt lacked.

        The batch does the same in its own transaction with what was refused here, or deleted since.

        Raises:
            SettingsError: this role may not create agents.
            ConcurrencyError: another transaction does the same, and does not end.
        """
        absent, self._absent = self._absent, set()
        # Those of absent agents again: they may have been deleted with their agents since.
        known = self._kept - absent
        made = (external for entry in batch.entries for external in entry.made if external.kind == "agent")
        ids = {external.id.hex: external for external in made if external.id.hex not in known}
        if not ids and not absent:
            return
        with batch_transaction(self._store) as transaction:
            keep_ids(transaction, ids.values())  # first: the name of an agent that is created is its external id
            _create(transaction, absent)
        _remember(self._kept, ids)
        _remember(self._tried, absent)

    def require(self, missing: Iterable[Missing]) -> None:
        """Start again if the agents of some pairs are to be created before the batch.

        Each is tried once in this process, so that one that is refused costs the next batches nothing.

        Raises:
            AbsentAgentsError: some are.
        """
        self._absent = {row.agent_id for row in missing if not row.agent_exists} - self._tried
        if self._absent:
            raise AbsentAgentsError


def _create(transaction: BatchTransaction, agents: Collection[str]) -> None:
    """Create agents; one that PostgreSQL refuses, or a trigger, is found by the batch, with its events."""
    if not agents:
        return
    try:
        with transaction.savepoint():
            transaction.create_parents((), agents)
    except OUTAGES:
        raise
    except Exception:  # noqa: BLE001, S110 - the batch tries them again, and says what it is
        pass


def _remember(known: set[str], added: Iterable[str]) -> None:
    if len(known) > _MOST_KNOWN:
        known.clear()
    known.update(added)
