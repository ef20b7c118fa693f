"""Stores whose transactions give up soon: status and services must not wait for whoever holds a table."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.store.connection import Store
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.postgres import Connection


class ImpatientStore(Store):
    """A store whose transactions give up soon: whoever holds a lock on a table must not stop status or a service.

    A statement takes 5 s at most, and waits 1 s for a lock.
    """

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Borrow a connection for one transaction. Raises like that of `Store`, and StatementCancelledError."""
        with super().connection() as connection:
            connection.execute(query("give_up_soon"))
            yield connection


class ReportStore(Store):
    """A store for the reports of a service: a statement takes 20 s at most, and waits 1 s for a lock."""

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Borrow a connection for one transaction. Raises like that of `Store`, and StatementCancelledError."""
        with super().connection() as connection:
            connection.execute(query("give_up_report"))
            yield connection
