"""The named queries of the benchmark."""

from usage_worker.queries import Queries
from usage_worker.store.counters import COLUMNS

query = Queries("usage_worker.bench", COLUMNS)
