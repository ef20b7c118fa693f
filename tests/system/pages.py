"""The page of a service, asked for in this process."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import TYPE_CHECKING, Any

import psycopg

from tests.integration.asgi import Answer, ask
from tests.sql import query
from usage_worker.http import create_app
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

# Of the collection: the pages are asked for these days by name.
TODAY = datetime.now(UTC).date()
DAYS = [TODAY - timedelta(days=ago) for ago in range(12)]


def fill(url: str) -> None:
    """Add events of the last days to the ledger, whose hours are not rolled up."""
    with psycopg.connect(url) as connection:
        connection.execute(query("ledger_days"), {"days": DAYS})
        connection.execute(query("summary_events"), {"days": DAYS, "first": 1, "last": 2_000})
        connection.execute(query("mark_new_hours"))
        connection.execute(query("fill_daily"))


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
