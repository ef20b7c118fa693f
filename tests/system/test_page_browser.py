"""The page of the service in Debian's Chromium: it draws, asks nobody else, follows the status and fits a phone."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.service import READER, serving
from tests.system.test_report_page import CHARTS, CONTRAST, READABLE, SHAPES, WRONG
from tests.usage_reports import HOSTILE_NAMES
from tools.screenshot.chromium import Tab, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.service import Service

CALLS = """
    SELECT track_agent_usage(%s, agent, n %% 4 > 0, n, n * 0.0000000123, n)
      FROM unnest(%s::uuid[]) AS agent, generate_series(1, 30) AS n"""
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"
FIELD = "document.querySelector('[name={}]').value = '{}'"
TOTALS = (
    "['uses', 'tokens', 'cost', 'errors'].map(id => document.querySelector(`#${id} tfoot tr`).cells[1].textContent)"
)
# What the database can hold: neither U+0000 nor half a character.
NAMES = [name for name in HOSTILE_NAMES if name and name.isascii() | (name.encode("utf-8", "ignore").decode() == name)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture
def service(database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """Serve a database with uses of agents with hostile names."""
    (user,) = run(database, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0]
    agents = [run(database, "INSERT INTO agents (name) VALUES (%s) RETURNING id", name)[0][0] for name in NAMES]
    run(database, CALLS, user, agents)
    with serving(tmp_path, redis_url, DATABASE_URL=database) as service:
        yield service


def open_page(tab: Tab, service: Service, query: str = "") -> None:
    tab.open(f"http://reader:{quote(READER[0])}@127.0.0.1:{service.port}/{query}")
    tab.next_frame()


def check_quiet(tab: Tab, service: Service) -> None:
    """Assert that the browser has asked this service only, and has no error, message or violation to tell."""
    asked = [it["params"]["request"]["url"] for it in tab.events if it["method"] == "Network.requestWillBeSent"]
    assert {urlsplit(url).netloc.rpartition("@")[2] for url in asked if not url.startswith("data:")} == {
        f"127.0.0.1:{service.port}"
    }
    assert {urlsplit(url).path for url in asked if not url.startswith("data:")} <= {"/", "/status.html"}
    assert [event for event in tab.events if event["method"] in WRONG] == []


def test_page(browser: Tab, service: Service, database: str) -> None:
    tab = browser
    tab.set_width(1200)
    tab.set_scheme("light")
    open_page(tab, service)
    shapes = tab.run(SHAPES)
    assert len(shapes) == CHARTS
    assert all(shapes)
    found = [Decimal(cell.strip("$").replace(",", "")) for cell in tab.run(TOTALS)]
    ledger = "SELECT count(*), sum(tokens), sum(cost_usd), count(*) FILTER (WHERE NOT success) FROM usage_events"
    assert [tuple(found)] == run(database, ledger)

    # Names are text.
    assert tab.run("typeof hacked") == "undefined"
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert NAMES[0] in tab.run("[...document.querySelectorAll('#agents tbody th')].map(it => it.textContent)")

    # Readable in both schemes; no scrolling sideways on a phone.
    tab.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    for scheme in ("dark", "light"):
        tab.set_scheme(scheme)
        tab.next_frame()
        _, contrast = tab.run(CONTRAST)
        assert contrast >= READABLE
    tab.set_width(390, phone=True)
    tab.next_frame()
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    tab.set_width(1200)

    # The status follows, and keeps open what the reader has opened.
    assert tab.run("document.querySelector('#status p').textContent").startswith("Collected at ")
    tab.run("document.getElementById('status').className = 'old'")
    tab.run(REFRESH)
    eventually(lambda: tab.run("document.getElementById('status').className") == "", 30)
    assert tab.run("document.querySelectorAll('#status details:not([open])').length") == 0
    assert tab.run("document.getElementById('stale').hidden")
    check_quiet(tab, service)

    # The form asks for the days of a zone.
    tab.run(FIELD.format("zone", "Asia/Kolkata"))
    tab.run(FIELD.format("days", "2"))
    tab.events.clear()
    tab.run("document.querySelector('form button').click()")
    eventually(lambda: "days=2" in tab.run("location.search") and tab.run("document.readyState") == "complete", 30)
    assert "Days in Asia/Kolkata." in tab.run("document.querySelector('#range').textContent")
    assert tab.run("document.querySelectorAll('#uses tbody tr').length") == 2
    check_quiet(tab, service)

    # Neither the key nor what was asked for is in the log; a view is, its refreshes are not.
    requests = [line for line in service.lines() if line["event"] == "request" and line["path"] != "/livez"]
    assert {(line["path"], line["status"], line["key"]) for line in requests} <= {
        ("/", 200, "reader"),
        ("/", 401, None),
    }
    assert not {"Kolkata", READER[0]} & set(service.log.read_text().split())
    assert "Kolkata" not in service.log.read_text()
    metrics = service.send("GET", "/metrics").text
    assert 'usage_http_requests_total{path="/",status="200"} 2.0' in metrics
    assert 'path="/status.html",status="200"' in metrics

    # A service that is gone is told from one whose status stays.
    service.process.terminate()
    service.process.wait(40)
    eventually(lambda: tab.run(f"({REFRESH}, document.getElementById('stale').hidden)") is False, 30)


def test_browser_is_asked_for_the_key(browser: Tab, service: Service) -> None:
    reply = service.send("GET", "/")
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="usage-worker", charset="UTF-8"')
    head = service.send("HEAD", "/", authorization=f"Bearer {READER[0]}")
    assert (head.status, head.text) == (200, "")
    assert service.send("POST", "/").status == 405
    assert service.send("GET", "//").status == 404
