"""The queries of tests, demo and benchmark."""

from usage_worker.store.queries import Queries

query = Queries("usage_worker.testing")
