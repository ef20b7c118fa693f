"""`GET /api/v1/usage`: totals of UTC days."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from usage_worker.errors import ParameterError, StatementCancelledError, UsageError
from usage_worker.events.external_ids import MAX_EXTERNAL_ID, uuid_of
from usage_worker.http.access import key_name_of
from usage_worker.http.events import RETRY_SECONDS
from usage_worker.http.keys import Right
from usage_worker.http.threads import SharedThreads
from usage_worker.http.usage_query import cursor_of, read_query
from usage_worker.printable import printable
from usage_worker.store.external_ids import external_ids, id_of
from usage_worker.store.impatient_stores import ImpatientStore
from usage_worker.store.usage_totals import usage_totals

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.requests import Request
    from starlette.responses import Response

    from usage_worker.events.external_ids import Kind
    from usage_worker.http.access import Access
    from usage_worker.http.usage_query import UsageQuery
    from usage_worker.postgres import Connection
    from usage_worker.settings import Settings

# Connections to PostgreSQL; a statement ends within 5 s, and what waits longer for a connection is refused.
MAX_READERS = 4
# A page of totals has up to five statements.
MAX_SECONDS = 30.0
_RETRY = {"Retry-After": str(RETRY_SECONDS[HTTPStatus.SERVICE_UNAVAILABLE])}
log = logging.getLogger("usage_worker.http")


class UsageEndpoint:
    """The endpoint, which needs DATABASE_URL."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._access = access
        self._ledger_days = settings.retention_days
        self._namespace = settings.id_namespace if settings.takes_any_id else None
        self._store = (
            ImpatientStore.for_reports(settings, MAX_READERS)
            if settings.database_url or settings.report_database_url
            else None
        )
        self._threads = SharedThreads(MAX_READERS)

    async def answer(self, request: Request) -> Response:
        """Answer the request."""
        self._access.check(request, Right.READ)
        try:
            wanted = read_query(request.scope["query_string"], self._ledger_days)
            if self._store is None:
                raise HTTPException(501, "DATABASE_URL is not set: this service takes events only")
            page = partial(self._page, self._store, wanted)
            content, headers = await self._threads.within(MAX_SECONDS, page, key_name_of(request))
            return JSONResponse(content, headers=headers)
        except TimeoutError:
            reason = "PostgreSQL does not answer, or other requests of this key use its connections"
            raise HTTPException(503, reason, _RETRY) from None
        except ParameterError as error:
            content = {"error": error.reason, "field": printable(error.field)}
            return JSONResponse(content, HTTPStatus.BAD_REQUEST)

    def close(self) -> None:
        """Close the connections."""
        if self._store is not None:
            self._store.close()

    def _page(self, store: ImpatientStore, wanted: UsageQuery) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the content of an answer, and its headers: `Age` where a replica is behind."""
        totals = wanted.totals
        try:
            age = round(store.data_age() or 0.0)
            with store.connection() as connection:
                user = self._uuid(connection, "user", wanted.user)
                agent = self._uuid(connection, "agent", wanted.agent)
                page = usage_totals(connection, replace(totals, user_id=user, agent_id=agent), wanted.rows)
                _put_originals(connection, page.rows)
        except UsageError as error:
            log.warning("no totals: %s", error)
            reason = "the totals took more than 5 s; ask for fewer days, or for one user"
            if not isinstance(error, StatementCancelledError):
                reason = "PostgreSQL is not available, or refuses; the log of the service says why"
            raise HTTPException(503, reason, _RETRY) from None
        content = {
            "from": totals.first.isoformat(),
            "to": totals.last.isoformat(),
            "usage": [_shown(row) for row in page.rows],
            "cursor": cursor_of(page.next, wanted.digest) if page.next else None,
        }
        return content, {"Age": str(age)} if age else {}

    def _uuid(self, connection: Connection, kind: Kind, text: str | None) -> UUID | None:
        """Return the UUID of an id in any notation; with `USAGE_IDS=uuid5` also of one that no event has named yet."""
        if text is None:
            return None
        if found := id_of(connection, kind, text):
            return found
        if self._namespace is None:
            raise ParameterError(f"{kind}_id", "must be a UUID, or an id of your own that events have named")
        try:
            return uuid_of(kind, text, self._namespace)
        except ValueError:
            reason = f"must have 1 to {MAX_EXTERNAL_ID} characters, and no U+0000"
            raise ParameterError(f"{kind}_id", reason) from None


def _put_originals(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Put the application's own ids in the place of the UUIDs that were made from them."""
    for kind in ("user", "agent"):
        column = f"{kind}_id"
        if rows and column in rows[0]:
            originals = external_ids(connection, kind, {row[column] for row in rows})
            for row in rows:
                row[column] = originals.get(row[column], row[column])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON has it: money as text, since a reader's numbers are binary; what is unknown is null."""
    total, samples = row.pop("response_time_total_ms"), row.pop("response_time_samples")
    cost = row.pop("total_cost_usd")
    keys = {name: row.pop(name) for name in ("day", "user_id", "agent_id", "model") if name in row}
    return {
        **{name: str(value) if value else None for name, value in keys.items()},
        **{name: int(value) for name, value in row.items()},
        "total_cost_usd": None if cost is None else f"{cost:f}",
        "avg_response_time_ms": round(total / samples) if samples else None,
    }
