"""`usage-worker report`: the totals of days in the reader's time zone, as a table, as JSON or as a page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from usage_worker.cli.data_age import data_age
from usage_worker.cli.output import Form, print_json, print_rows
from usage_worker.cli.written_file import write_file
from usage_worker.errors import ArgumentError, ParameterError
from usage_worker.report.page import render_page
from usage_worker.reporting import FIGURES, By, page_report, report_days, table_rows
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import require_id
from usage_worker.store.needed_role import needed_role
from usage_worker.wording import exact, exact_dollars, exact_milliseconds, moment

FORMS: dict[str, Form] = {
    **dict.fromkeys(("usage_count", "message_count", "total_tokens_used", "users"), exact),
    **dict.fromkeys(("avg_response_time_ms", "p50_ms", "p95_ms", "p99_ms"), exact_milliseconds),
    "total_cost_usd": exact_dollars,
    "hour": moment,
}
# Left out in this order where a table with all columns is too wide, as it is below 120 columns.
SPARE = ("p99_ms", "message_count", "p50_ms")

DayCount = Annotated[
    int | None, typer.Option("--days", min=1, help="How many days up to the last one; 7 unless --from is given.")
]
From = Annotated[
    datetime | None, typer.Option("--from", metavar="DAY", formats=["%Y-%m-%d"], help="First day, in USAGE_TIMEZONE.")
]
To = Annotated[
    datetime | None,
    typer.Option("--to", metavar="DAY", formats=["%Y-%m-%d"], help="Last day, which is included; today unless given."),
]
Grouped = Annotated[By, typer.Option("--by", help="What each row is about.")]
User = Annotated[
    str | None, typer.Option(metavar="ID", help="Count this user's events only: a UUID, or your own id of the user.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print an array of rows as JSON; cost is a string.")]
Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write a page with charts instead; - is standard output.")
]


def report(
    days: DayCount = None,
    first: From = None,
    last: To = None,
    by: Grouped = "day",
    user: User = None,
    as_json: AsJson = False,
    html: Html = None,
) -> None:
    """Show uses, tokens, cost, success rate, latency and distinct users of days in USAGE_TIMEZONE.

    A percentile is unknown below 20 response times.
    """
    settings = load_settings()
    if html is not None and (as_json or by != "day"):
        raise ArgumentError("--html: the page has everything; leave out --json and --by")
    with Store.for_reports(settings) as store, needed_role("service_role"):
        data_age(store)
        user_id = None if user is None else require_id(store, "user", user)
        try:
            wanted = report_days(store, settings.timezone, days, first and first.date(), last and last.date())
            if html is not None:
                write_file(html, render_page(page_report(store, wanted, user_id, user)))
                return
            rows = table_rows(store, wanted, by, user_id)
        except ParameterError as error:
            raise ArgumentError(f"--{error.field}: {error.reason}") from error
    if as_json:
        print_json(rows)
        return
    headings = [*_headings(by), *FIGURES]
    cells = [[row[heading] for heading in headings] for row in rows]
    title = f"{wanted.first} to {wanted.last}, days in {wanted.zone}"
    print_rows(headings, cells, title=title, figures=FIGURES, forms=FORMS, spare=SPARE, headings_in_lines=True)


def _headings(by: By) -> list[str]:
    return [f"{by}_id", by] if by in ("agent", "user") else [by]
