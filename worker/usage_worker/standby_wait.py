"""Whether a commit has waited for its synchronous standby.

PostgreSQL commits first and waits then. Where somebody cancels that wait (`pg_cancel_backend`), COMMIT succeeds with a
warning, and a failover would undo the transaction.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usage_worker.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection
    from psycopg.errors import Diagnostic

# Where PostgreSQL warns; its messages may be in any language.
_FUNCTION = "SyncRepWaitForLSN"


@contextmanager
def standby_wait(connection: Connection[Any]) -> Iterator[None]:
    """Watch a connection whose transactions commit within the block.

    Raises:
        StoreUnavailableError: at the end of the block, if a wait was cancelled. The transaction is committed here;
            whoever repeats it waits again if it writes or locks anything.
    """
    cancelled: list[Diagnostic] = []

    def note(notice: Diagnostic) -> None:
        if notice.source_function == _FUNCTION:
            cancelled.append(notice)

    connection.add_notice_handler(note)
    try:
        yield
    finally:
        connection.remove_notice_handler(note)
    if cancelled:
        raise StoreUnavailableError("the wait for the synchronous standby was cancelled", "is the standby up?")
