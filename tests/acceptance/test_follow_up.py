"""A flush that has spent its time budget before its shard is empty sends the next one, without waiting for beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.helpers import eventually
from usage_worker.local.supervisor import Supervisor
from usage_worker.publisher import UsagePublisher
from usage_worker.store.connection import Store
from usage_worker.testing import Population, generate_usage
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

EVENTS = 300


def test_backlog_is_drained_without_ticks(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_STREAM_SHARDS", "1")
    monkeypatch.setenv("USAGE_FLUSH_INTERVAL", "3600")
    # A transaction for each event, of which one flush cannot make so many.
    monkeypatch.setenv("USAGE_FLUSH_BUDGET", "0.1")
    monkeypatch.setenv("USAGE_BATCH_EVENTS", "1")
    population = Population.of(10, 5)
    with Store(database) as store:
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        with Supervisor(database, redis_url, concurrency=1, flower_port=None, log_dir=tmp_path) as celery:
            celery.wait_ready(180)
            with UsagePublisher(redis_url, pack_events=1) as publisher:
                for event in generate_usage(population, EVENTS, "uniform", seed=1):
                    publisher.track(**event)
            eventually(lambda: store.intake_totals().applied == EVENTS, timeout=30)
    assert (tmp_path / "worker1.log").read_text().count("cut_short=True") > 1
