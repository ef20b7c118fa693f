"""Named queries that only the tests use."""

from usage_worker.store.queries import Queries

query = Queries("tests")
