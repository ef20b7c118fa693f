"""PostgreSQL and Valkey without Docker, root or system services, for demo, tests and `usage-worker up`.

The servers are foreground child processes of their owner: they listen on private Unix sockets only, and the kernel
stops them when the owner dies, SIGKILL included.
"""

from usage_worker.local.embedded_postgres import EmbeddedPostgres
from usage_worker.local.embedded_valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
