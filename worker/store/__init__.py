"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""

from worker.store.batch import BatchTransaction, DeadLetter, Identity, Missing, batch_transaction
from worker.store.books import Intake
from worker.store.connection import Store
from worker.store.duties import Run, last_runs, record_run, sole_transaction

__all__ = [
    "BatchTransaction",
    "DeadLetter",
    "Identity",
    "Intake",
    "Missing",
    "Run",
    "Store",
    "batch_transaction",
    "last_runs",
    "record_run",
    "sole_transaction",
]
