"""The named queries that only this project's tests use."""

from usage_worker.store.queries import Queries

query = Queries("tests")
