"""The page of a service in Debian's Chromium: it draws, asks nobody else, follows the status and fits a phone."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.conftest import new_database
from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.service import READER, serving
from tests.system.browser import CHARTS, CONTRAST, READABLE, SHAPES, WRONG
from tests.usage_reports import HOSTILE_NAMES
from usage_worker.wording import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.service import Service
    from tests.servers import Postgres, Valkey
    from tools.screenshot.chromium import Tab

CALLS = """
    SELECT track_agent_usage(%s, agent, n %% 4 > 0, n, n * 0.0000000123, n)
      FROM unnest(%s::uuid[]) AS agent, generate_series(1, 30) AS n"""
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"
TOTALS = (
    "['uses', 'tokens', 'cost', 'errors'].map(id => document.querySelector(`#${id} tfoot tr`).cells[1].textContent)"
)
# What the database can hold: neither U+0000 nor half a character.
NAMES = [name for name in HOSTILE_NAMES if name and "\ud800" not in name]


@pytest.fixture(scope="module")
def hostile(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[str]:
    """Yield a database with uses of agents with hostile names."""
    with new_database(postgres, template_database()) as name:
        url = postgres.url(name)
        (user,) = run(url, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0]
        agents = [run(url, "INSERT INTO agents (name) VALUES (%s) RETURNING id", name)[0][0] for name in NAMES]
        run(url, CALLS, user, agents)
        yield url


@pytest.fixture(scope="module")
def service(hostile: str, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), valkey.url(), DATABASE_URL=hostile) as service:
        yield service


def open_page(tab: Tab, service: Service, query: str = "") -> None:
    tab.open(f"http://reader:{READER[0]}@127.0.0.1:{service.port}/{query}")
    tab.next_frame()


def check_quiet(tab: Tab, service: Service, *paths: str) -> None:
    """Assert that the browser has asked this service for the paths, and has no error, message or violation to tell."""
    asked = [it["params"]["request"]["url"] for it in tab.events if it["method"] == "Network.requestWillBeSent"]
    urls = [urlsplit(url) for url in asked if not url.startswith("data:")]
    assert {(url.hostname, url.port) for url in urls} == {("127.0.0.1", service.port)}
    assert {url.path for url in urls} == set(paths)
    assert [event for event in tab.events if event["method"] in WRONG] == []


def test_charts_have_the_totals_of_the_ledger(tab: Tab, service: Service, hostile: str) -> None:
    open_page(tab, service)
    shapes = tab.run(SHAPES)
    assert len(shapes) == CHARTS
    assert all(shapes)
    found = [Decimal(cell.strip("$").replace(",", "")) for cell in tab.run(TOTALS)]
    ledger = "SELECT count(*), sum(tokens), sum(cost_usd), count(*) FILTER (WHERE NOT success) FROM usage_events"
    assert [tuple(found)] == run(hostile, ledger)
    check_quiet(tab, service, "/")


def test_names_run_nothing(tab: Tab, service: Service) -> None:
    open_page(tab, service)
    assert tab.run("typeof hacked") == "undefined"
    assert tab.run("document.querySelectorAll('img').length") == 0
    names = tab.run("[...document.querySelectorAll('#agents tbody th')].map(it => it.textContent)")
    assert sorted(names) == sorted(map(shown_name, NAMES))


def test_readable_in_both_schemes_and_on_a_phone(tab: Tab, service: Service) -> None:
    open_page(tab, service)
    tab.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    for scheme in ("dark", "light"):
        tab.set_scheme(scheme)
        tab.next_frame()
        texts, contrast = tab.run(CONTRAST)
        assert texts > 100
        assert contrast >= READABLE
    tab.set_width(390, phone=True)
    open_page(tab, service)
    tab.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def test_status_follows(tab: Tab, service: Service) -> None:
    """It keeps open what the reader has opened, and says when the service does not answer."""
    open_page(tab, service)
    assert tab.run("document.querySelector('#status p').textContent").startswith("Collected at ")
    tab.run("document.querySelector('#status details').open = true")
    tab.run("document.getElementById('status').className = 'old'")
    tab.run(REFRESH)
    eventually(lambda: tab.run("document.getElementById('status').className") == "", 30)
    assert tab.run("[...document.querySelectorAll('#status details')].map(it => it.open).indexOf(true)") == 0
    assert tab.run("document.querySelectorAll('#status details[open]').length") == 1
    check_quiet(tab, service, "/", "/status.html")

    tab.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.run(REFRESH)
    eventually(lambda: not tab.run("document.getElementById('stale').hidden"), 30)
    tab.send("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.run(REFRESH)
    eventually(lambda: tab.run("document.getElementById('stale').hidden"), 30)


def test_form_asks_for_days_and_zone_of_which_the_log_has_nothing(tab: Tab, service: Service) -> None:
    open_page(tab, service)
    tab.run("document.querySelector('[name=zone]').value = 'Asia/Kolkata'")
    tab.run("document.querySelector('[name=days]').value = '2'")
    tab.events.clear()
    tab.run("document.querySelector('form button').click()")
    eventually(lambda: tab.run("document.readyState === 'complete' && location.search.includes('days=2')"), 30)
    assert "Days in Asia/Kolkata." in tab.run("document.querySelector('#range').textContent")
    assert tab.run("document.querySelectorAll('#uses tbody tr').length") == 2
    check_quiet(tab, service, "/")
    log = service.log.read_text()
    assert not any(secret in log for secret in ("Kolkata", "days=2", READER[0]))
    assert any(line.get("path") == "/" and line["key"] == "reader" for line in service.lines())
    # An open page asks for it every ten seconds.
    assert "status.html" not in log


def test_other_methods_and_metrics(service: Service) -> None:
    reply = service.send("GET", "/")
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="usage-worker", charset="UTF-8"')
    head = service.send("HEAD", "/", authorization=f"Bearer {READER[0]}")
    assert (head.status, head.text) == (200, "")
    assert [service.send("POST", "/").status, service.send("GET", "//").status] == [405, 404]
    metrics = service.send("GET", "/metrics").text
    for sample in ('path="/",status="200"', 'path="/",status="401"', 'path="/",status="405"'):
        assert f"usage_http_requests_total{{{sample}}}" in metrics
