"""The page of a service: who may read it, which days it takes, what it escapes, and that it equals the ledger."""

from __future__ import annotations

import asyncio
import json
import re
import time
from base64 import b64encode
from datetime import date, timedelta
from typing import TYPE_CHECKING

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.integration.asgi import ask
from tests.integration.database import run
from tests.integration.service import KEYS, READER, WRITER
from tests.sql import query
from tests.system.pages import DAYS, TODAY, answers, line_of, opened, text_of, totals_of
from usage_worker.http import create_app
from usage_worker.queue.processes import Process
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis


ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]
LEDGER = """
    SELECT count(*), coalesce(sum(tokens), 0), sum(cost_usd), count(*) FILTER (WHERE NOT success) FROM usage_events
     WHERE type = 'usage' AND occurred_at >= %s::date::timestamp AT TIME ZONE %s
       AND occurred_at < (%s::date + 1)::timestamp AT TIME ZONE %s"""
HOSTILE = '"><script>hacked=1</script>\u202e'


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
        redis_client.hset("usage:processes", f"{HOSTILE}{place}", f"{int(time.time())} {json.dumps(record)}")
    (answer,) = answers(opened(redis_url, DATABASE_URL=database), {})
    assert "<script>hacked" not in text_of(answer)
    assert "\u202e" not in text_of(answer)
    assert text_of(answer).count("&lt;script&gt;hacked=1&lt;/script&gt;\\u202e") >= 3
