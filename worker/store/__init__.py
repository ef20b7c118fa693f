"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""

from worker.store.analytics import refresh_analytics
from worker.store.batch import BatchTransaction, DeadLetter, Identity, Missing, batch_transaction
from worker.store.books import Intake
from worker.store.connection import OUTAGES, Store
from worker.store.duties import Run, last_runs, record_run, sole_transaction
from worker.store.partitions import drop_partition, forget_entries, make_partition, partitions, today
from worker.store.purge import end_shares, forget_past, purge_chunk, purge_due, purge_places, require_sight
from worker.store.reconcile import (
    FIRST_PAIR,
    Differing,
    Mended,
    PairKey,
    booked_by_day,
    count_pairs,
    counter_differences,
    day_differences,
    mend_counters,
    mend_day,
    next_pairs,
    recorded_by_day,
    retained_days,
)

__all__ = [
    "FIRST_PAIR",
    "OUTAGES",
    "BatchTransaction",
    "DeadLetter",
    "Differing",
    "Identity",
    "Intake",
    "Mended",
    "Missing",
    "PairKey",
    "Run",
    "Store",
    "batch_transaction",
    "booked_by_day",
    "count_pairs",
    "counter_differences",
    "day_differences",
    "drop_partition",
    "end_shares",
    "forget_entries",
    "forget_past",
    "last_runs",
    "make_partition",
    "mend_counters",
    "mend_day",
    "next_pairs",
    "partitions",
    "purge_chunk",
    "purge_due",
    "purge_places",
    "record_run",
    "recorded_by_day",
    "refresh_analytics",
    "require_sight",
    "retained_days",
    "sole_transaction",
    "today",
]
