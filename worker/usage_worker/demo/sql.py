"""The named queries of the demo."""

from usage_worker.queries import Queries

query = Queries("usage_worker.demo")
