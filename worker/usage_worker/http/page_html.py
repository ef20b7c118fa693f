"""The page as HTML: status, a form for the days, and the report; every text in it is escaped once."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.http import paths
from usage_worker.printable import printable
from usage_worker.report.assets import asset
from usage_worker.report.document import content_policy, document_html
from usage_worker.report.page import chart_scripts, origin_of, report_html, title_of
from usage_worker.reporting import DEFAULT_DAYS, MOST_DAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usage_worker.report.usage_report import UsageReport

_NO_FRAMES = "frame-ancestors 'none'"
PART_POLICY = f"default-src 'none'; {_NO_FRAMES}"
"""The Content-Security-Policy of a part of the page."""
# With a path below that of the page, the links work wherever it is mounted.
_LINKS = ((paths.METRICS, "Metrics of this service"), (paths.DOCUMENT, "Interface for programs (OpenAPI)"))


class Rendered(NamedTuple):
    """A page and the Content-Security-Policy that its answer must have."""

    text: str
    policy: str


class ReportPart(NamedTuple):
    """The part of the page with a report."""

    title: str
    origin: str
    html: str

    @classmethod
    def of(cls, report: UsageReport) -> ReportPart:
        """Render a report; one of thousands of days takes a second."""
        return cls(title_of(report), origin_of(report), report_html(report))


def page_html(status: str, given: Mapping[str, str], zone: str, report: ReportPart | str) -> Rendered:
    """Return the page.

    Args:
        status: HTML.
        given: the parameters, which the form shows again.
        zone: the time zone unless one is given.
        report: the report, or in one line why there is none.
    """
    is_there = isinstance(report, ReportPart)
    title, origin, html = report if isinstance(report, ReportPart) else ("Usage", "", "")
    wrong = "" if is_there else f'<p class="wrong" role="alert">{escape(str(report))}</p>\n'
    links = "\n".join(f'<a href="{path.removeprefix("/")}">{escape(text)}</a>' for path, text in _LINKS)
    body = f"""<header><h1>usage-worker</h1>
<nav aria-label="Service">{links}</nav></header>
{status}
<p id="stale" class="wrong" role="alert" hidden>The service does not answer; the status above is an old one.</p>
<section id="range"><h2>{escape(title)}</h2>
<p>{escape(origin)}</p>
{_form_html(given, zone)}
{wrong}</section>
{html}"""
    return _rendered(title, body, [asset("status.js", __package__), *(chart_scripts() if is_there else [])])


def message_html(message: str) -> Rendered:
    """Return a page that has only a line."""
    return _rendered("usage-worker", f"<header><h1>usage-worker</h1>\n<p>{escape(message)}</p></header>", [])


def _rendered(title: str, body: str, scripts: list[str]) -> Rendered:
    style = asset("page.css") + asset("page.css", __package__)
    policy = content_policy(scripts, "connect-src 'self'; form-action 'self'")
    # The rule about frames counts in a header alone.
    return Rendered(document_html(title, style, policy, body, scripts), f"{policy}; {_NO_FRAMES}")


def _form_html(given: Mapping[str, str], zone: str) -> str:
    shown = {name: escape(printable(text)) for name, text in ({"zone": zone} | dict(given)).items()}
    first, last, days = (shown.get(name, "") for name in ("from", "to", "days"))
    return f"""<form method="get">
<label>From <input type="date" name="from" value="{first}"></label>
<label>To <input type="date" name="to" value="{last}"></label>
<label>Or the last
<input type="number" name="days" min="1" max="{MOST_DAYS}" placeholder="{DEFAULT_DAYS}" value="{days}"> days</label>
<label>Time zone <input name="zone" value="{shown["zone"]}" autocapitalize="off" spellcheck="false"></label>
<button>Show</button>
</form>"""
