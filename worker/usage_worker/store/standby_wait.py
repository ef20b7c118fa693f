"""Whether a commit has waited for its synchronous standby.

PostgreSQL commits first and waits then. Where somebody cancels that wait (`pg_cancel_backend`), COMMIT succeeds with a
warning, and a failover would undo the transaction.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg.errors import Diagnostic

    from usage_worker.postgres import Connection

# Where PostgreSQL warns; its messages may be in any language.
_FUNCTION = "SyncRepWaitForLSN"


@contextmanager
def standby_wait() -> Iterator[Callable[[Connection], None]]:
    """Yield what watches the connection whose transaction commits within the block.

    Raises:
        StoreUnavailableError: the wait was cancelled. The transaction is committed here; whoever repeats it finds that,
            and waits again.
    """
    cancelled: list[Diagnostic] = []
    watched: list[Connection] = []

    def note(notice: Diagnostic) -> None:
        if notice.source_function == _FUNCTION:
            cancelled.append(notice)

    def watch(connection: Connection) -> None:
        connection.add_notice_handler(note)
        watched.append(connection)

    try:
        yield watch
    finally:
        for connection in watched:
            connection.remove_notice_handler(note)
    if cancelled:
        raise StoreUnavailableError("the wait for the synchronous standby was cancelled; is the standby up?")
