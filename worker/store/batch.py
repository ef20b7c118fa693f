"""The statements of the one transaction that counts a batch; `worker.ingest` decides what is called in which order."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from worker.store.connection import translated
from worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from uuid import UUID

    from psycopg import Connection

    from worker.events import Record
    from worker.fold import Pair, Totals
    from worker.store.books import Intake
    from worker.store.connection import Store

Identity = tuple["UUID", "datetime"]

_LEDGER_TYPES = (
    *("uuid", "timestamptz", "text", "uuid", "uuid", "int4", "int8", "int8", "int8"),
    *("numeric", "int4", "bool", "uuid", "text", "numeric"),
)
_TOTALS_TYPES = (
    *(
        "uuid",
        "uuid",
        "int4",
        "int8",
        "int8",
        "int8",
        "int8",
        "int8",
        "int8",
        "int8",
        "numeric",
        "int8",
        "int8",
    ),
    *("timestamptz", "timestamptz", "uuid", "timestamptz", "numeric", "timestamptz"),
)


class DeadLetter(NamedTuple):
    """An event, or a whole unreadable entry, that cannot be counted, and why."""

    entry_key: UUID
    position: int
    stream: str
    entry_id: str
    events: int
    reason: str
    payload: str


class Missing(NamedTuple):
    """A pair without a row, and which of its two sides exist."""

    user_id: UUID
    agent_id: UUID
    user_exists: bool
    agent_exists: bool


class BatchTransaction:
    """An open transaction of one batch."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._staged = False

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what happens inside, and only that, when it raises."""
        with translated(), self._connection.transaction():
            yield

    def register_entries(self, keys: Iterable[UUID]) -> set[UUID]:
        """Note the entries as seen; those that were not before are returned."""
        return {row[0] for row in self._connection.execute(query("register_entries"), {"keys": list(keys)})}

    def known(self, identities: Collection[Identity]) -> set[Identity]:
        """Which of the events the ledger has already."""
        if not identities:
            return set()
        ids, times = zip(*identities, strict=True)
        parameters = {"ids": list(ids), "times": list(times), "oldest": min(times), "newest": max(times)}
        return set(self._connection.execute(query("known_events"), parameters).fetchall())

    def stage(self, day: date, totals: Mapping[Pair, Totals]) -> list[Missing]:
        """Lay one day's totals ready; which of their pairs have no row in `user_agents` is returned."""
        self._connection.execute(query("ensure_day"), {"day": day})
        if self._staged:
            self._connection.execute("TRUNCATE batch_totals, batch_conversations")
        self._staged = True
        opened = self._insert_conversations(totals)
        self._copy("copy_totals", _TOTALS_TYPES, (_totals_row(p, t, opened[p]) for p, t in totals.items()))
        return [Missing(*row) for row in self._connection.execute(query("missing_pairs"))]

    def apply_staged(self, day: date) -> int:
        """Add the staged totals to the counters and the roll-up; how many rows of `user_agents` changed."""
        return self._connection.execute(query("apply_totals"), {"day": day}).rowcount

    def owns_auth(self) -> bool:
        """Whether `auth.users` belongs to this role rather than to the platform."""
        row = self._connection.execute(query("owns_auth")).fetchone()
        return bool(row and row[0])

    def create_parents(self, users: Iterable[UUID], agents: Iterable[UUID]) -> None:
        """Make bare rows for users and agents that live elsewhere."""
        self._connection.execute(query("create_users"), {"ids": list(users)})
        self._connection.execute(query("create_agents"), {"ids": list(agents)})

    def insert_pairs(self, pairs: Sequence[Pair]) -> None:
        """Make the rows that the first use of an agent creates."""
        users, agents = zip(*pairs, strict=True)
        self._connection.execute(query("insert_pairs"), {"users": list(users), "agents": list(agents)})

    def write_ledger(self, records: Iterable[Record]) -> None:
        """Append the records to the ledger; it refuses one that it has already."""
        self._copy("copy_ledger", _LEDGER_TYPES, records)

    def quarantine(self, letters: Iterable[DeadLetter]) -> int:
        """Keep what cannot be counted; how many events these stand for, letters that lie there already left out."""
        kept = 0
        for letter in letters:
            if self._connection.execute(query("insert_dead_letter"), letter._asdict()).rowcount:
                kept += letter.events
        return kept

    def book(self, stream: str, intake: Intake) -> None:
        """Enter the figures of the batch into the books."""
        self._connection.execute(query("book_intake"), {"stream": stream, **intake._asdict()})

    def _insert_conversations(self, totals: Mapping[Pair, Totals]) -> Counter[Pair]:
        """Note the conversations; how many were new to each pair is returned."""
        rows = [(*pair, conversation) for pair, total in totals.items() for conversation in total.conversations]
        if not rows:
            return Counter()
        self._copy("copy_conversations", ("uuid", "uuid", "uuid"), rows)
        with self._connection.cursor(binary=True) as cursor:
            return Counter(cursor.execute(query("insert_conversations")).fetchall())

    def _copy(self, name: str, types: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(query(name)) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


@contextmanager
def batch_transaction(store: Store) -> Iterator[BatchTransaction]:
    """Begin the transaction of one batch; it commits at the end of the block. Errors: see `Store.connection`."""
    with store.connection() as connection:
        connection.execute(query("begin"))
        connection.execute(query("staging"))
        yield BatchTransaction(connection)


def _totals_row(pair: Pair, total: Totals, opened: int) -> tuple[object, ...]:
    conversation_at, conversation = total.last_conversation or (None, None)
    rated_at, rating = total.last_rating or (None, None)
    return (
        *pair,
        total.usage_count,
        total.message_count,
        opened,
        total.success_count,
        total.usage_count - total.success_count,
        total.input_tokens,
        total.output_tokens,
        total.tokens,
        total.cost_usd,
        total.response_time_total_ms,
        total.response_time_samples,
        total.first_used_at,
        total.last_used_at,
        conversation,
        conversation_at,
        rating,
        rated_at,
    )
