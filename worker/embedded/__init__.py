"""PostgreSQL and Valkey without Docker, root or system services, for demo, tests and `usage-worker up`.

The servers are ordinary foreground children of their owner: they listen on private Unix sockets only, and the
kernel stops them when the owner dies, however it dies.
"""

from worker.embedded.postgres import EmbeddedPostgres
from worker.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
