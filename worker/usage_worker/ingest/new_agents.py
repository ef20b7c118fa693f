"""Agents that are to be created, and external ids of agents: committed before the transaction that counts the batch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from usage_worker.errors import ConcurrencyError, LockHeldError
from usage_worker.ingest.made_ids import keep_ids
from usage_worker.postgres import OUTAGES
from usage_worker.store.batch import batch_transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.held_rows import HeldRows
    from usage_worker.store.batch import BatchTransaction
    from usage_worker.store.connection import Store
    from usage_worker.store.pair import Missing

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

    def __init__(self, store: Store, held: HeldRows) -> None:
        self._store = store
        self._held = held
        self._kept: set[str] = set()
        self._absent: set[str] = set()
        self._tried: set[str] = set()
        # Agents that others are inserting, or the ids that are to be their names, as of the attempt at hand.
        self.being_inserted: set[str] = set()

    def prepare(self, batch: Batch) -> None:
        """Keep the external ids of a batch's agents, once in this process; create those that its last attempt lacked.

        The batch does the same in its own transaction with what was refused here, or deleted since.

        Raises:
            SettingsError: this role may not create agents.
            LockHeldError: another transaction is inserting one of them; the next attempt leaves that one out.
        """
        absent, self._absent = self._absent, set()
        self.being_inserted = set()
        # Those of absent agents again: they may have been deleted with their agents since.
        known = self._kept - absent
        made = (external for entry in batch.entries for external in entry.made if external.kind == "agent")
        ids = {external.id.hex: external for external in made if external.id.hex not in known}
        if not ids and not absent:
            return
        with batch_transaction(self._store) as transaction:
            # First: the name of an agent that is created is its external id.
            self.being_inserted = {it.id.hex for it in keep_ids(transaction, ids.values(), self._held)}
            named = sorted(absent - self.being_inserted)
            self.being_inserted.update(self._held.insert(transaction, partial(_create, transaction), named, "agents"))
        _remember(self._kept, ids.keys() - self.being_inserted)
        _remember(self._tried, absent - self.being_inserted)

    def require(self, missing: Iterable[Missing], *, may_start_again: bool) -> None:
        """Start again, if that may be, where agents of some pairs must be created before the batch.

        Each is tried once in this process, so that one that is refused costs the next batches nothing.

        Raises:
            LockHeldError: others are inserting some, or the ids that are to be their names.
            AbsentAgentsError: some are.
        """
        absent = {row.agent_id for row in missing if not row.agent_exists}
        if absent & self.being_inserted:
            raise LockHeldError("agents, or the ids that are to be their names")
        if may_start_again and (untried := absent - self._tried):
            self._absent = untried
            raise AbsentAgentsError


def _create(transaction: BatchTransaction, agents: Sequence[str]) -> None:
    """Create agents; one that PostgreSQL refuses, or a trigger, is found by the batch, with its events."""
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
