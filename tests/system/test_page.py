"""The page of the service: who may read it, what it says where something is missing, and that it equals the ledger."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
from base64 import b64encode
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.conftest import _new_database
from tests.helpers import eventually
from tests.integration.asgi import Answer, ask
from tests.integration.database import run
from tests.integration.service import KEYS, READER, WRITER
from tests.sql import query
from usage_worker.http import create_app, page, usage
from usage_worker.http.report_source import MAX_REPORTS
from usage_worker.http.status_watch import StatusWatch
from usage_worker.queue.processes import Process
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis

    from tests.conftest import Postgres

TODAY = datetime.now(UTC).date()
DAYS = [TODAY - timedelta(days=ago) for ago in range(12)]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]
LEDGER = """
    SELECT count(*), coalesce(sum(tokens), 0), sum(cost_usd), count(*) FILTER (WHERE NOT success) FROM usage_events
     WHERE type = 'usage' AND occurred_at >= %s::date::timestamp AT TIME ZONE %s
       AND occurred_at < (%s::date + 1)::timestamp AT TIME ZONE %s"""
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SESSIONS = """
    SELECT pid FROM pg_stat_activity
     WHERE application_name = 'usage-worker' AND datname = current_database()"""
HOSTILE = '"><script>hacked=1</script>\u202e'


@pytest.fixture(scope="module")
def filled(postgres: Postgres, template_database: str) -> Iterator[str]:
    """Yield a database with events of the last days."""
    with _new_database(postgres, template_database) as name:
        url = postgres.url(name)
        with psycopg.connect(url) as connection:
            connection.execute(query("ledger_days"), {"days": DAYS})
            connection.execute(query("summary_events"), {"days": DAYS, "first": 1, "last": 2_000})
            connection.execute(query("mark_new_hours"))
            connection.execute(query("fill_daily"))
        yield url


def nobody() -> str:
    """Return the address of a port at which nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def answers(app: Starlette, *requests: dict[str, Any]) -> list[Answer]:
    """Send requests to an application, one after the other, and end it."""

    async def asked() -> list[Answer]:
        async with app.router.lifespan_context(app):
            return [await ask(app, **{"method": "GET", "path": "/", **request}) for request in requests]

    return asyncio.run(asked())


def opened(redis_url: str, **fields: Any) -> Starlette:
    """Return a service that takes requests of this machine without a key."""
    return create_app(Settings(**{"REDIS_URL": redis_url, "api_keys": ""} | fields), require_keys=False)


def text_of(answer: Answer) -> str:
    return answer.body.decode()


def line_of(answer: Answer) -> str:
    """Return the line that says why there is no report."""
    found = re.findall(r'<p class="wrong" role="alert">(.*?)</p>', text_of(answer))
    assert len(found) == 1, text_of(answer)[-3_000:]
    return unescape(found[0])


def totals_of(answer: Answer) -> list[Decimal | None]:
    """Return uses, tokens, cost and errors of all days."""
    sections = {
        name: text_of(answer).split(f'<section id="{name}">')[1] for name in ("uses", "tokens", "cost", "errors")
    }
    cells = [re.findall(r"<tfoot>.*?<td>(.*?)</td>", section)[0] for section in sections.values()]
    return [None if it == "unknown" else Decimal(it.strip("$").replace(",", "")) for it in cells]


def test_totals_equal_the_ledger(filled: str, redis_url: str) -> None:
    app = opened(redis_url, DATABASE_URL=filled)

    @settings(max_examples=12)
    @given(st.lists(st.sampled_from(DAYS), min_size=2, max_size=2).map(sorted), st.sampled_from(ZONES))
    def check(days: Sequence[date], zone: str) -> None:
        first, last = days
        (ledger,) = run(filled, LEDGER, first, zone, last, zone)
        answer = asyncio.run(ask(app, "GET", "/", query=f"from={first}&to={last}&zone={zone}"))
        assert answer.status == 200
        uses, tokens, cost, errors = ledger
        # Days without uses cost nothing; uses without a known cost have an unknown one.
        assert totals_of(answer) == [uses, tokens, cost if uses else 0, errors]
        assert f"Days in {zone}." in text_of(answer)

    check()
    answers(app)


def test_last_days_and_the_default(filled: str, redis_url: str) -> None:
    app = opened(redis_url, DATABASE_URL=filled, timezone="Asia/Tokyo")
    default, many, chosen = answers(
        app, {}, {"query": "days=11&from=&to="}, {"query": "days=2&zone=America%2FSt_Johns"}
    )
    today = run(filled, "SELECT (now() AT TIME ZONE 'Asia/Tokyo')::date")[0][0]
    assert f"<h2>Usage, {today - timedelta(days=6)} to {today}</h2>" in text_of(default)
    assert f"<h2>Usage, {today - timedelta(days=10)} to {today}</h2>" in text_of(many)
    assert 'name="zone" value="America/St_Johns"' in text_of(chosen)
    assert 'name="days" min="1" max="3660" placeholder="7" value="2"' in text_of(chosen)


def test_wrong_parameter_is_one_line_and_the_rest_stays(filled: str, redis_url: str) -> None:
    wrong = {
        "from=2026-02-30": "from: must be a day like 2026-01-31",
        "from=2026-02-02&to=2026-02-01": "from: 2026-02-02 is after the last day, 2026-02-01",
        "from=0001-01-01": "from: at most 3,660 days",
        "days=2&from=2026-02-02": "days: leave it out, or leave out the first day",
        "days=0": "days: must be an integer from 1 to 3660",
        "days=3661": "days: must be",
        "days=%D9%A3": "days: must be",
        "zone=Europe/Atlantis": "zone: is not a valid time zone",
        "zone=../../etc/passwd": "zone: is not a valid time zone",
        "zone=localtime": "zone: is not a name that PostgreSQL knows",
        "zone=%00": "zone: is not a valid time zone",
        "zone=%FF": "zone: is not UTF-8",
        "zone=%22%3E%3Cscript%3Ehacked": "zone: is not a valid time zone",
        "zone=UTC&zone=UTC": "zone: given twice",
        "%3Cscript%3E=1": "<script>: unknown; there are from, to, days, zone",
        f"to=0001-01-01&days=1&zone={'x' * 5_000}": "zone: is not a valid time zone",
    }
    refused = answers(opened(redis_url, DATABASE_URL=filled), *({"query": it} for it in wrong))
    for answer, line in zip(refused, wrong.values(), strict=True):
        assert (answer.status, line_of(answer).startswith(line)) == (400, True), line_of(answer)
        assert "<script>hacked" not in text_of(answer)
        assert '<section id="status">' in text_of(answer)
        assert "Collected at " in text_of(answer)
    ends = ({"query": f"to={day}&days=2&zone=America/St_Johns"} for day in ("0001-01-01", "9999-12-31"))
    assert [it.status for it in answers(opened(redis_url, DATABASE_URL=filled), *ends)] == [200, 200]


def test_days_of_which_too_little_is_known(database: str, redis_url: str) -> None:
    old = TODAY - timedelta(days=500)
    with psycopg.connect(database) as connection:
        connection.execute(query("dropped_days"), {"day": old})
    asked = f"from={old}&to={old + timedelta(days=1)}"
    known, unknown = answers(
        opened(redis_url, DATABASE_URL=database), {"query": asked}, {"query": f"{asked}&zone=Asia/Kolkata"}
    )
    assert known.status == 200
    assert totals_of(known)[0] == 60
    assert unknown.status == 400
    assert line_of(unknown).startswith("from: ")
    assert line_of(unknown).endswith("older ones are known by whole UTC days")


def test_who_may_read(filled: str, redis_url: str) -> None:
    app = create_app(Settings(REDIS_URL=redis_url, DATABASE_URL=filled, api_keys=KEYS))
    basic = [
        f"anybody:{READER[0]}",
        f":{READER[0]}",
        f"anybody:{WRITER[0]}",
        "anybody:wrong",
        f"{READER[0]}:",
        READER[0],
        "\udcff:\udcff",
    ]
    given_keys = [f"Basic {b64encode(it.encode('utf-8', 'surrogateescape')).decode()}" for it in basic]
    given_keys += ["Basic !", "Basic", "basic\t", "Negotiate x", f"Bearer {READER[0]}", f"Bearer {WRITER[0]}", ""]
    found = answers(app, *({"authorization": it, "path": path} for it in given_keys for path in ("/", "/status.html")))
    expected = [200, 200, 403, 401, 401, 401, 401, 401, 401, 401, 401, 200, 403, 401]
    assert [it.status for it in found[::2]] == [it.status for it in found[1::2]] == expected
    for answer in found:
        asks = answer.headers.get("www-authenticate")
        assert asks == ('Basic realm="usage-worker", charset="UTF-8"' if answer.status == 401 else None)
        assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "Workers" in text_of(answer) or answer.status != 200
        assert answer.status == 200 or "healthy" not in text_of(answer)
    # The interface for programs stays with its own scheme.
    (usage,) = answers(app, {"path": "/api/v1/usage", "authorization": given_keys[0]})
    assert (usage.status, usage.headers["www-authenticate"]) == (401, "Bearer")


def test_open_loopback_and_foreign_hosts(redis_url: str) -> None:
    ours, foreign, head, posted = answers(
        opened(redis_url), {}, {"host": "evil.example"}, {"method": "HEAD"}, {"method": "POST"}
    )
    assert [ours.status, foreign.status, head.status, posted.status] == [200, 401, 200, 405]
    # No password would help.
    assert foreign.headers["www-authenticate"] == "Bearer"
    assert set(posted.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_each_section_stands_alone(filled: str, redis_url: str, postgres: Postgres, ingest_login: str) -> None:
    (without,) = answers(opened(redis_url), {})
    assert line_of(without) == "DATABASE_URL is not set for this service: set it to a login with service_role"
    assert "Status: not healthy" in text_of(without)
    assert "DATABASE_URL is not set" in text_of(without).split('id="range"')[0]

    secret = "s3cretword"
    (down,) = answers(opened(redis_url, DATABASE_URL=f"postgresql://user:{secret}@{nobody()}/usage"), {})
    assert "see that the server of DATABASE_URL runs" in line_of(down)
    assert secret not in text_of(down)
    assert re.search(r"<dt>Backlog</dt><dd class=\"figure\">0</dd>", text_of(down))

    (away,) = answers(opened(f"redis://:{secret}@{nobody()}/0", DATABASE_URL=filled), {})
    assert totals_of(away)[0]
    assert "see that the server of REDIS_URL runs" in text_of(away)
    assert re.search(r"<dt>Backlog</dt><dd class=\"figure\">unknown</dd>", text_of(away))
    assert secret not in text_of(away)

    user = re.sub(r"//[^@]*@", f"//{ingest_login}@", filled) if "@" in filled else filled
    (refused,) = answers(opened(redis_url, DATABASE_URL=user), {})
    assert line_of(refused).endswith("DATABASE_URL must name the owner, or a login with service_role")
    assert [it.status for it in (without, down, away, refused)] == [200] * 4


def test_schema_of_another_program(empty_database: str, redis_url: str) -> None:
    (answer,) = answers(opened(redis_url, DATABASE_URL=empty_database), {})
    assert line_of(answer).endswith("run `usage-worker migrate up`")


def test_busy_reports_hold_neither_status_nor_events(filled: str, redis_url: str) -> None:
    """Reports wait for a lock here; a third one is told so at once, and events are taken."""
    event = b'{"user_id": "00000000-0000-0000-0000-000000000002", "agent_id": "00000000-0000-0000-0000-000000000007"}'
    app = opened(redis_url, DATABASE_URL=filled)

    async def asked() -> list[Answer]:
        async with app.router.lifespan_context(app):
            await ask(app, "GET", "/status.html")
            waiting = [asyncio.create_task(ask(app, "GET", "/")) for _ in range(MAX_REPORTS)]
            await asyncio.to_thread(eventually, lambda: len(run(filled, WAITING)) == MAX_REPORTS)
            third = await ask(app, "GET", "/")
            taken = await ask(app, "POST", "/api/v1/events", event)
            assert not any(it.done() for it in waiting)
            return [third, taken, *(await asyncio.gather(*waiting))]

    with psycopg.connect(filled) as connection:
        connection.execute("LOCK TABLE usage_events, usage_daily, agent_usage_hourly IN ACCESS EXCLUSIVE MODE")
        third, taken, *waited = asyncio.run(asked())
    assert "2 other reports are being computed" in line_of(third)
    assert taken.status == 202
    for answer in waited:
        assert answer.status == 200
        assert "reload the page in a few seconds" in line_of(answer)


def test_server_that_stands_still_holds_no_request(
    filled: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit of PostgreSQL's own ends a statement then, and its host goes on answering for TCP."""
    monkeypatch.setattr(page, "REPORT_SECONDS", 1.0)
    monkeypatch.setattr(usage, "MAX_SECONDS", 1.0)
    app = opened(redis_url, DATABASE_URL=filled)

    def sessions() -> set[int]:
        return {pid for (pid,) in run(filled, SESSIONS)}

    async def asked() -> list[Answer]:
        async with app.router.lifespan_context(app):
            before = sessions()
            first = [await ask(app, "GET", path) for path in ("/", "/api/v1/usage")]
            # That of the status is closed; one of a report and one of totals stay open.
            await asyncio.to_thread(eventually, lambda: len(sessions() - before) == 2)
            held = sessions() - before
            for session in held:
                os.kill(session, signal.SIGSTOP)
            try:
                return first + [await ask(app, "GET", path) for path in ("/", "/api/v1/usage")]
            finally:
                for session in held:
                    os.kill(session, signal.SIGCONT)

    report, totals, late_report, late_totals = asyncio.run(asked())
    assert (report.status, totals.status) == (200, 200)
    assert totals_of(report)[0]
    assert late_report.status == 200
    assert line_of(late_report).startswith("PostgreSQL has not answered within 1 s: ask for fewer days")
    assert (late_totals.status, late_totals.headers["retry-after"]) == (503, "5")


def test_mounted_page_is_counted_and_has_relative_links(filled: str, redis_url: str) -> None:
    app = opened(redis_url, DATABASE_URL=filled)
    mounted = Starlette(routes=[Mount("/usage", app)])
    page, part, metrics = (
        asyncio.run(ask(mounted, "GET", path)) for path in ("/usage/", "/usage/status.html", "/usage/metrics")
    )
    answers(app)
    assert (page.status, part.status) == (200, 200)
    assert re.findall(r'href="(.*?)"', text_of(page)) == ["data:,", "metrics", "openapi.json"]
    assert b'path="/",status="200"' in metrics.body
    assert text_of(part).startswith('<section id="status">')


def test_names_and_reasons_are_text(database: str, redis_url: str, redis_client: redis.Redis) -> None:
    user = run(database, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0][0]
    agent = run(database, "INSERT INTO agents (name) VALUES (%s) RETURNING id", HOSTILE)[0][0]
    run(database, "SELECT track_agent_usage(%s, %s)", user, agent)
    run(
        database,
        "INSERT INTO usage_dead_letters (entry_key, position, stream, entry_id, reason, payload)"
        " VALUES (gen_random_uuid(), 0, 's', '1-0', %s, '{}')",
        HOSTILE,
    )
    hostile = Process(HOSTILE, [HOSTILE], [], 2, HOSTILE, 1.0)._asdict() | {"clock": 0}
    strange = [hostile, hostile | {"roles": 5}, hostile | {"uptime": float("inf")}, hostile | {"version": None}, [], 5]
    for place, record in enumerate(strange):
        redis_client.hset("usage:processes", f"{HOSTILE}{place}", f"9999999999 {json.dumps(record)}")
    (answer,) = answers(opened(redis_url, DATABASE_URL=database), {})
    assert "<script>hacked" not in text_of(answer)
    assert "\u202e" not in text_of(answer)
    assert text_of(answer).count("&lt;script&gt;hacked=1&lt;/script&gt;\\u202e") >= 3


def test_status_is_collected_only_while_somebody_looks(filled: str, redis_url: str) -> None:
    def collectors() -> int:
        return sum(thread.name == "background-status" for thread in threading.enumerate())

    before = collectors()
    watch = StatusWatch(Settings(REDIS_URL=redis_url, DATABASE_URL=filled), idle_seconds=0.5)
    assert collectors() == before
    first, _ = watch.look()
    assert first is not None
    assert collectors() == before + 1
    eventually(lambda: collectors() == before)
    assert watch.look()[0] is not None
    watch.close()
    assert collectors() == before
