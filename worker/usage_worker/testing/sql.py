"""The named queries that tests, demo and benchmark share."""

from usage_worker.queries import Queries
from usage_worker.store.counters import COLUMNS
from usage_worker.testing.oracle import COUNTER_COLUMNS

query = Queries("usage_worker.testing", {"compared": COUNTER_COLUMNS, **COLUMNS})
