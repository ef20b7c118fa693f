"""`GET /`: the page with the status and the charts of a report; `GET /status.html`: its part with the status."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from usage_worker.errors import ParameterError
from usage_worker.http.access import key_name_of
from usage_worker.http.keys import Right
from usage_worker.http.page_html import PART_POLICY, Rendered, ReportPart, message_html, page_html
from usage_worker.http.page_query import given_parameters, page_query
from usage_worker.http.places import Places
from usage_worker.http.report_source import MAX_REPORTS, NoReportError, ReportSource
from usage_worker.http.status_html import status_html
from usage_worker.http.status_watch import StatusWatch
from usage_worker.http.threads import within
from usage_worker.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from usage_worker.http.access import Access
    from usage_worker.http.page_query import PageQuery
    from usage_worker.settings import Settings

# A report has four statements, of which one takes long: at most 20 s.
REPORT_SECONDS = 40.0
_SLOW = (
    "PostgreSQL has not answered within {:.0f} s: ask for fewer days, or see that the server of DATABASE_URL answers"
)
_BUSY = "other reports are being computed; reload the page in a few seconds"
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


class PageEndpoint:
    """The page. Each of its sections stands alone: where one cannot be shown, a line says why and what to do."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._access, self._zone = access, settings.timezone
        self._watch, self._reports = StatusWatch(settings), ReportSource(settings)
        self._places = Places(MAX_REPORTS)
        # Neither takes one of the threads that events need.
        self._status_threads, self._report_threads = CapacityLimiter(2), CapacityLimiter(MAX_REPORTS)

    async def page(self, request: Request) -> Response:
        """Answer the request for the page."""
        if refusal := self._refusal(request):
            return refusal
        given: dict[str, str] = {}
        report: ReportPart | str
        code = HTTPStatus.OK
        # The first status is collected while the report is computed.
        await to_thread.run_sync(self._watch.begin, limiter=self._status_threads)
        try:
            given = given_parameters(request.scope["query_string"])
            report = await self._report(page_query(given, self._zone), key_name_of(request))
        except ParameterError as error:
            code, report = HTTPStatus.BAD_REQUEST, f"{printable(error.field)}: {error.reason}"
        except NoReportError as error:
            report = str(error)
        # After the report, which takes up to 40 s: the age of the status is true when the page is shown.
        return _answer(code, page_html(await self._status(), given, self._zone, report))

    async def status(self, request: Request) -> Response:
        """Answer the request for the part with the status, which an open page sends every ten seconds."""
        if refusal := self._refusal(request):
            return refusal
        return _answer(HTTPStatus.OK, Rendered(await self._status(), PART_POLICY))

    def close(self) -> None:
        """Stop collecting the status, and close the connections."""
        self._watch.close()
        self._reports.close()

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not read, None to one that may."""
        try:
            self._access.check(request, Right.READ, by_browser=True)
        except HTTPException as error:
            return _answer(HTTPStatus(error.status_code), message_html(error.detail), error.headers)
        return None

    async def _status(self) -> str:
        return await to_thread.run_sync(lambda: status_html(self._watch.look()), limiter=self._status_threads)

    async def _report(self, wanted: PageQuery, key: str | None) -> ReportPart:
        if not self._places.has_room(key):
            raise NoReportError(_BUSY)
        try:
            with self._places.taken(key):
                return await within(
                    REPORT_SECONDS, lambda: ReportPart.of(self._reports.report(wanted)), self._report_threads
                )
        except TimeoutError:
            raise NoReportError(_SLOW.format(REPORT_SECONDS)) from None


def _answer(status: HTTPStatus, page: Rendered, headers: Mapping[str, str] | None = None) -> Response:
    policy = {"Content-Security-Policy": page.policy}
    return HTMLResponse(page.text, int(status), {**_HEADERS, **policy, **(headers or {})})
