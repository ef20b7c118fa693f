"""The named queries that tests, demo and benchmark share."""

from usage_worker.queries import Queries
from usage_worker.store.counters import COLUMNS

query = Queries("usage_worker.testing", COLUMNS)
