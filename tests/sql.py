"""Named queries that only the tests use."""

from usage_worker.queries import Queries

query = Queries("tests")
