"""PostgreSQL and Valkey without Docker, root or system services, for demo, tests and `usage-worker up`.

The servers are ordinary foreground children of their owner: they listen on private Unix sockets only, and the
kernel stops them when the owner dies, however it dies.
"""

from usage_worker.local.embedded_postgres import EmbeddedPostgres
from usage_worker.local.embedded_valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
