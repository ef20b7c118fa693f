"""The page of a service where something is missing, busy or stands still: each of its sections stands alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg

from tests.conftest import as_login
from tests.helpers import eventually, free_port
from tests.integration.asgi import Answer, ask
from tests.integration.database import run
from tests.system.pages import answers, line_of, opened, text_of, totals_of
from usage_worker.http import page, usage
from usage_worker.http.report_source import MAX_REPORTS
from usage_worker.http.status_watch import StatusWatch
from usage_worker.settings import Settings

if TYPE_CHECKING:
    import pytest

    from tests.servers import Postgres

WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SESSIONS = """
    SELECT pid FROM pg_stat_activity
     WHERE application_name = 'usage-worker' AND datname = current_database()"""


def test_each_section_stands_alone(filled: str, redis_url: str, postgres: Postgres, ingest_login: str) -> None:
    (without,) = answers(opened(redis_url), {})
    assert line_of(without) == "DATABASE_URL is not set for this service: set it to a login with service_role"
    assert "Status: not healthy" in text_of(without)
    assert "DATABASE_URL is not set" in text_of(without).split('id="range"')[0]

    secret = "s3cretword"
    (down,) = answers(opened(redis_url, DATABASE_URL=f"postgresql://user:{secret}@127.0.0.1:{free_port()}/usage"), {})
    assert "is DATABASE_URL right and the server up?" in line_of(down)
    assert secret not in text_of(down)
    assert re.search(r"<dt>Backlog</dt><dd class=\"figure\">0</dd>", text_of(down))

    (away,) = answers(opened(f"redis://:{secret}@127.0.0.1:{free_port()}/0", DATABASE_URL=filled), {})
    assert totals_of(away)[0]
    assert "is REDIS_URL right and the server up?" in text_of(away)
    assert re.search(r"<dt>Backlog</dt><dd class=\"figure\">unknown</dd>", text_of(away))
    assert secret not in text_of(away)

    (refused,) = answers(opened(redis_url, DATABASE_URL=as_login(filled, ingest_login)), {})
    assert line_of(refused).endswith("this needs the DATABASE_URL of the owner, or of a login with service_role")
    assert [it.status for it in (without, down, away, refused)] == [200] * 4


def test_schema_of_another_program(empty_database: str, redis_url: str) -> None:
    (answer,) = answers(opened(redis_url, DATABASE_URL=empty_database), {})
    assert line_of(answer).endswith(": run `usage-worker migrate up`")
    assert line_of(answer).count("migrate up") == 1


def test_busy_reports_hold_neither_status_nor_events(
    filled: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports wait for a lock here; one more is told so at once, and events are taken."""
    module = sys.modules["usage_worker.store.connection"]
    given = module.query

    def patient(name: str) -> str:
        """Let the reports still wait when the others are answered."""
        return "SET LOCAL lock_timeout = '10s'" if name == "give_up_report" else str(given(name))

    monkeypatch.setattr(module, "query", patient)
    event = b'{"user_id": "00000000-0000-0000-0000-000000000002", "agent_id": "00000000-0000-0000-0000-000000000007"}'
    app = opened(redis_url, DATABASE_URL=filled)

    async def asked() -> list[Answer]:
        async with app.router.lifespan_context(app):
            await ask(app, "GET", "/status.html")
            waiting = [asyncio.create_task(ask(app, "GET", "/")) for _ in range(MAX_REPORTS)]
            await asyncio.to_thread(eventually, lambda: len(run(filled, WAITING)) == MAX_REPORTS)
            further = await ask(app, "GET", "/")
            taken = await ask(app, "POST", "/api/v1/events", event)
            assert not any(it.done() for it in waiting)
            return [further, taken, *(await asyncio.gather(*waiting))]

    with psycopg.connect(filled) as connection:
        connection.execute("LOCK TABLE usage_events, usage_daily, agent_usage_hourly IN ACCESS EXCLUSIVE MODE")
        further, taken, *waited = asyncio.run(asked())
    assert "other reports are being computed" in line_of(further)
    assert taken.status == 202
    for answer in waited:
        assert answer.status == 200
        assert "reload the page in a few seconds" in line_of(answer)


def test_server_that_stands_still_holds_no_request(
    filled: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit of PostgreSQL's own ends a statement then, and its host goes on answering for TCP."""
    app = opened(redis_url, DATABASE_URL=filled)

    stopped_at: list[datetime] = []

    def sessions() -> set[int]:
        return {pid for (pid,) in run(filled, SESSIONS)}

    async def asked() -> list[Answer]:
        async with app.router.lifespan_context(app):
            before = sessions()
            first = [await ask(app, "GET", path) for path in ("/", "/api/v1/usage")]
            # That of the status is closed; one of a report and one of totals stay open.
            await asyncio.to_thread(eventually, lambda: len(sessions() - before) == 2)
            held = sessions() - before
            monkeypatch.setattr(page, "REPORT_SECONDS", 3.0)
            monkeypatch.setattr(usage, "MAX_SECONDS", 1.0)
            for session in held:
                os.kill(session, signal.SIGSTOP)
            stopped_at.append(datetime.now(UTC))
            try:
                return first + [await ask(app, "GET", path) for path in ("/", "/api/v1/usage")]
            finally:
                for session in held:
                    os.kill(session, signal.SIGCONT)

    report, totals, late_report, late_totals = asyncio.run(asked())
    assert (report.status, totals.status) == (200, 200)
    assert totals_of(report)[0]
    assert late_report.status == 200
    assert line_of(late_report).startswith("PostgreSQL has not answered within 3 s: ask for fewer days")
    # The age of the status is that at the end of the report, not at its beginning; whole seconds are shown.
    assert told_at(late_report) - stopped_at[0] > timedelta(seconds=1)
    assert (late_totals.status, late_totals.headers["retry-after"]) == (503, "5")


def told_at(answer: Answer) -> datetime:
    """Return when the page was rendered, by what it says of the age of the status."""
    ((begin, age, unit),) = re.findall(r"Collected at (.*?) UTC, ([\d.]+) (m?s) ago", text_of(answer))
    return datetime.fromisoformat(f"{begin}+00:00") + timedelta(seconds=float(age) / (1000 if unit == "ms" else 1))


def test_status_is_collected_only_while_somebody_looks(filled: str, redis_url: str) -> None:
    def collectors() -> int:
        return sum(thread.name == "background-status" for thread in threading.enumerate())

    before = collectors()
    watch = StatusWatch(Settings(REDIS_URL=redis_url, DATABASE_URL=filled), idle_seconds=3.0)
    assert collectors() == before
    assert watch.look() is not None
    assert collectors() == before + 1
    eventually(lambda: collectors() == before)
    assert watch.look() is not None
    watch.close()
    assert collectors() == before
