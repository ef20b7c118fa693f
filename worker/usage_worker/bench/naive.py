"""The naive path, for comparison: one Celery task per event, each calling `track_agent_usage` in a transaction.

Run by `celery -A usage_worker.bench.naive worker`. Written as a team would write it, with a pooled connection for each
process.
"""

from __future__ import annotations

from functools import cache

from celery import Celery

from usage_worker.bench.sql import query as bench_query
from usage_worker.service.broker import broker_of
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store

QUEUE = "naive"

app = Celery("naive")
app.conf.update(broker_of(load_settings()))
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, broker_connection_retry_on_startup=True)


@cache
def _store() -> Store:
    settings = load_settings()
    return Store.of(settings)


@app.task(name="naive.track")  # type: ignore[untyped-decorator]
def track(user_id: str, agent_id: str, success: bool, tokens: int, cost: str, response_time: int | None) -> None:
    """Count one event; `cost` is in US dollars, `response_time` in milliseconds."""
    _store().rows(
        bench_query("track_agent_usage"),
        user_id=user_id,
        agent_id=agent_id,
        success=success,
        tokens=tokens,
        cost=cost,
        response_time=response_time,
    )
