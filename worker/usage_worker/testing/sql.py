"""The named queries that tests, demo and benchmark share."""

from usage_worker.queries import Queries

query = Queries("usage_worker.testing")
