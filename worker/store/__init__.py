"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""

from worker.store.batch import BatchTransaction, DeadLetter, Identity, Missing, batch_transaction
from worker.store.books import Intake
from worker.store.connection import Store

__all__ = ["BatchTransaction", "DeadLetter", "Identity", "Intake", "Missing", "Store", "batch_transaction"]
