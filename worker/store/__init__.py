"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""

from worker.store.analytics import refresh_analytics
from worker.store.batch import BatchTransaction, DeadLetter, Identity, Missing, batch_transaction
from worker.store.books import Intake
from worker.store.connection import Store
from worker.store.duties import Run, last_runs, record_run, sole_transaction
from worker.store.partitions import drop_partition, forget_entries, make_partition, partitions, today

__all__ = [
    "BatchTransaction",
    "DeadLetter",
    "Identity",
    "Intake",
    "Missing",
    "Run",
    "Store",
    "batch_transaction",
    "drop_partition",
    "forget_entries",
    "last_runs",
    "make_partition",
    "partitions",
    "record_run",
    "refresh_analytics",
    "sole_transaction",
    "today",
]
