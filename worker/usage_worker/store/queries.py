"""The queries of the store."""

from usage_worker.queries import Queries

query = Queries("usage_worker.store")
