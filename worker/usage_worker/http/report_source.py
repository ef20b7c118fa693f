"""The report of the page, or why there is none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from usage_worker.errors import (
    ConcurrencyError,
    ParameterError,
    SettingsError,
    StatementCancelledError,
    StoreUnavailableError,
    UsageError,
)
from usage_worker.monitoring.remedies import explained
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.reporting import page_report, report_days
from usage_worker.store.impatient_stores import ReportStore
from usage_worker.store.needed_role import needed_role

if TYPE_CHECKING:
    from usage_worker.http.page_query import PageQuery
    from usage_worker.report.usage_report import UsageReport
    from usage_worker.settings import Settings

# A report of five days with 1.5 million events takes PostgreSQL ten seconds of its processor. One key may have two.
MAX_REPORTS = 3
log = logging.getLogger("usage_worker.http")


class NoReportError(Exception):
    """There is no report now; the message says why and what to do."""


class ReportSource:
    """Computes reports; its methods wait for PostgreSQL, and any thread may call them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = (
            ReportStore.for_reports(settings, MAX_REPORTS)
            if settings.database_url or settings.report_database_url
            else None
        )

    def report(self, wanted: PageQuery) -> UsageReport:
        """Return the report.

        Raises:
            ParameterError: there can be no report of these days.
            NoReportError: the report cannot be read now.
        """
        if self._store is None:
            raise NoReportError("DATABASE_URL is not set for this service: set it to a login with service_role")
        try:
            with needed_role("service_role"):
                days = report_days(self._store, wanted.zone, wanted.days, wanted.first, wanted.last)
                return page_report(self._store, days)
        except ParameterError:
            raise
        except Exception as error:  # whatever is wrong here, the status must be shown
            log.warning("no report: %s", error, exc_info=not isinstance(error, UsageError))
            raise NoReportError(self._explained(error)) from error

    def close(self) -> None:
        """Close the connections."""
        if self._store is not None:
            self._store.close()

    def _explained(self, error: Exception) -> str:
        reason, remedy = explained(error)
        reason = printable(self._settings.mask(reason), REASON_LENGTH)
        if isinstance(error, StatementCancelledError):
            return f"{reason}: ask for fewer days"
        if isinstance(error, ConcurrencyError):
            return f"{reason}: reload the page in a few seconds"
        if isinstance(error, SettingsError) and not error.remedy:  # the reason says what to do
            return reason
        if isinstance(error, StoreUnavailableError) and self._settings.report_database_url:
            return f"{reason}: is USAGE_REPORT_DATABASE_URL right and the server up?"
        return f"{reason}: {remedy}"
