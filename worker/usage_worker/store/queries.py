"""The queries of the store."""

from usage_worker.queries import Queries
from usage_worker.store.counters import COLUMNS

query = Queries("usage_worker.store", COLUMNS)
