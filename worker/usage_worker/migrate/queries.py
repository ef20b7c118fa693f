"""The statements of the migration runner."""

from usage_worker.queries import Queries

query = Queries("usage_worker.migrate")
