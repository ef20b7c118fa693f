"""Each figure of the metrics against what was sent, during traffic and outages; `promtool` finds nothing to say."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen
from uuid import UUID, uuid4

import pytest
import redis
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.proxy import Proxy
from tests.helpers import eventually
from tests.integration.commands import Cli, served_metrics
from tests.integration.database import run
from usage_worker.errors import UsageError
from usage_worker.local import EmbeddedValkey
from usage_worker.monitoring.background import BackgroundStatus
from usage_worker.monitoring.metrics import registry
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.flush_counters import FAILURES, QUARANTINED
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usage_worker.ingest import FlushReport

Figures = dict[tuple[str, *tuple[tuple[str, str], ...]], float]
PEOPLE = Population.of(2, 1)
GOOD, FULL = ({"user_id": str(user), "agent_id": str(PEOPLE.agents[0])} for user in PEOPLE.users)
BAD: dict[str, list[dict[str, Any]]] = {
    "unknown_user": [GOOD | {"user_id": str(uuid4())}] * 2,
    "unknown_agent": [GOOD | {"agent_id": str(uuid4())}] * 3,
    "too_old": [GOOD | {"occurred_at": "2020-01-01T00:00:00Z"}] * 4,
    "in_future": [GOOD | {"occurred_at": (datetime.now(UTC) + timedelta(days=2)).isoformat()}] * 5,
    "refused_field": [GOOD | {"tokens": "many"}, GOOD | {"colour": "red"}],
    "full_counter": [FULL],
}


class Shown:
    """The metrics of a thread that collects all the time, as a scrape shows them."""

    def __init__(self, background: BackgroundStatus) -> None:
        self.background = background

    def figures(self, seconds: float = 30.0) -> Figures:
        text = generate_latest(registry(partial(self.background.wait, seconds))).decode()
        families = text_string_to_metric_families(text)
        return {(it.name, *sorted(it.labels.items())): it.value for family in families for it in family.samples}

    def fresh(self) -> Figures:
        """Return the figures of a collection that began after now."""
        now = datetime.now(UTC)
        eventually(lambda: (last := self.background.wait(30)) and last.at > now, 30)
        return self.figures()

    def value(self, name: str, **labels: str) -> float:
        return self.fresh()[(name, *sorted(labels.items()))]


def total(figures: Figures, name: str) -> float:
    return sum(value for (found, *_), value in figures.items() if found == name)


def by(figures: Figures, name: str, label: str) -> dict[str, float]:
    """Return a metric by one label, summed over the others, without zeros."""
    sums: Counter[str] = Counter()
    for (found, *labels), value in figures.items():
        if found == name:
            sums[dict(labels)[label]] += value  # type: ignore[assignment]
    return dict(+sums)


def add(client: redis.Redis, shard: int, events: Any, **fields: str) -> None:
    body = events if isinstance(events, str) else json.dumps(events)
    entry: Any = {"v": "1", "events": body} | fields
    client.xadd(f"usage:events:{{{shard}}}", entry)


@pytest.fixture
def settings(database: str, redis_url: str) -> Settings:
    with Resources(Settings(DATABASE_URL=database, REDIS_URL=redis_url)) as resources:
        population = testing_query("seed_population")
        resources.store.rows(population, users=PEOPLE.users, agents=PEOPLE.agents)
        return resources.settings


@pytest.fixture
def worker(settings: Settings) -> Iterator[Resources]:
    with Resources(settings) as resources:
        yield resources


@pytest.fixture
def shown(settings: Settings) -> Iterator[Shown]:
    with closing(BackgroundStatus(settings, seconds=0.05).start()) as background:
        yield Shown(background)
    eventually(lambda: "background-status" not in {it.name for it in threading.enumerate()})


def flushed(worker: Resources) -> list[FlushReport]:
    return [worker.flusher.flush(shard, 60) for shard in range(2)]


def test_figures_are_the_truth_and_never_fall(
    worker: Resources, shown: Shown, redis_client: redis.Redis, database: str
) -> None:
    insert = "INSERT INTO user_agents (user_id, agent_id, usage_count) VALUES (%s, %s, 2147483647)"
    run(database, insert, FULL["user_id"], FULL["agent_id"])
    began, reports, entries = time.time(), [], 0
    figures = shown.figures()
    reasons = {
        reason for (name, *labels) in figures for label, reason in labels if name.startswith("usage_quarantined")
    }
    assert reasons - {"0", "1"} == set(QUARANTINED), "each kind is there before its first event"
    for number in range(6):
        with UsagePublisher(worker.settings.redis_url, linger=0) as publisher:
            for _ in range(50):
                assert publisher.add(dict(GOOD))
        for events in BAD.values():
            add(redis_client, number % 2, events)
        add(redis_client, 0, "[]]", n="7")
        add(redis_client, 1, [GOOD], id=str(UUID(int=number)))
        add(redis_client, 1, [GOOD, GOOD], id=str(UUID(int=number)))  # another entry under the same id
        entries += sum(redis_client.xlen(f"usage:events:{{{shard}}}") for shard in range(2))
        reports += flushed(worker)
        before, figures = figures, shown.fresh()
        fallen = {key for key, value in before.items() if figures[key] < value and key[0].endswith(("total", "count"))}
        assert not fallen
    expected = {kind: 6 * len(events) for kind, events in BAD.items()} | {"unreadable": 42, "reused_id": 12}
    assert by(figures, "usage_quarantined_events_total", "reason") == expected
    accepted = 6 * (50 + 1) + sum(expected.values())
    outcomes = by(figures, "usage_events_total", "outcome")
    assert (outcomes["applied"], outcomes["quarantined"]) == (6 * 51, sum(expected.values()))
    assert total(figures, "usage_batch_events_sum") == accepted == sum(outcomes.values())
    batches = sum(report.batches for report in reports)
    assert total(figures, "usage_batch_events_count") == total(figures, "usage_flush_duration_seconds_count") == batches
    assert 0 < total(figures, "usage_flush_duration_seconds_sum") < sum(report.seconds for report in reports)
    assert total(figures, "usage_event_visible_seconds_count") == entries
    assert 0 < total(figures, "usage_event_visible_seconds_sum") < entries * (time.time() - began)
    for name in ("usage_flush_last_success_timestamp_seconds", "usage_status_collected_timestamp_seconds"):
        assert all(began < value < time.time() for (found, *_), value in figures.items() if found == name)
    redis_client.xadd("usage:events:{1}", {"v": "1", "events": json.dumps([GOOD])}, id="18446744073709551614-0")
    flushed(worker)
    after = shown.fresh()
    assert total(after, "usage_event_visible_seconds_count") == entries + 1
    assert total(after, "usage_event_visible_seconds_sum") == total(figures, "usage_event_visible_seconds_sum")


def test_failures_are_counted_by_kind(
    settings: Settings, worker: Resources, shown: Shown, redis_client: redis.Redis, empty_database: str
) -> None:
    add(redis_client, 0, [GOOD])
    for url in ("postgresql://127.0.0.1:1/nowhere", empty_database):
        with Resources(settings.model_copy(update={"database_url": url})) as broken, pytest.raises(UsageError):
            broken.flusher.flush(0)
    figures = shown.fresh()
    failures = by(figures, "usage_flush_failures_total", "reason")
    assert failures == {"postgresql_unavailable": 1, "schema": 1}
    assert sum(name == "usage_flush_failures_total" for name, *_ in figures) == 2 * len(FAILURES)
    flushed(worker)
    assert by(shown.fresh(), "usage_flush_failures_total", "reason") == failures


def test_foreign_text_in_a_record_stops_nobody(worker: Resources, shown: Shown, redis_client: redis.Redis) -> None:
    record: Any = "usage:flush:{0}"
    add(redis_client, 0, [GOOD])
    flushed(worker)
    minute = int(time.time()) // 60
    texts = ("lots", "nan", "-inf", "-7", "9" * 40, "9223372036854775807")
    for number, field in enumerate(
        [*redis_client.hkeys(record), f"accepted:{minute}", "quarantined/x", "accepted:nan"]
    ):
        redis_client.hset(record, field, texts[number % len(texts)])
    redis_client.hset(record, "events/sum", "lots")
    assert shown.value("usage_batch_events_sum", shard="0") == 0
    add(redis_client, 0, [GOOD, GOOD])
    assert flushed(worker)[0].intake.applied == 2
    assert shown.value("usage_batch_events_sum", shard="0") == 2
    redis_client.set(record, "somebody's text")
    assert shown.value("usage_batch_events_sum", shard="0") == 0


def test_counters_stay_during_outages_and_a_full_redis_takes_them(
    settings: Settings, database: str, server_folder: Path
) -> None:
    proxy = Proxy(database)
    with EmbeddedValkey(server_folder / "metrics") as valkey:
        ours = settings.model_copy(update={"database_url": proxy.url, "redis_url": valkey.url()})
        with (
            Resources(ours) as worker,
            redis.Redis.from_url(valkey.url()) as client,
            closing(BackgroundStatus(ours, 0.05).start()) as background,
        ):
            shown = Shown(background)
            add(client, 0, [GOOD] * 3)
            client.config_set("maxmemory", 1)
            flushed(worker)
            client.config_set("maxmemory", 0)
            add(client, 0, [GOOD])
            counted = shown.fresh()
            assert counted["usage_batch_events_sum", ("shard", "0")] == 3
            assert counted["usage_events_total", ("outcome", "applied")] == 3
            assert counted["usage_stream_entries", ("shard", "0")] == 1
            with proxy.unreachable():
                down = eventually(lambda: shown_problem(shown, "postgresql"), 30)
                assert down["usage_stream_entries", ("shard", "0")] == 1
                assert kept(down) == kept(counted)
                valkey.kill()
                down = eventually(lambda: shown_problem(shown, "redis"), 30)
                assert ("usage_stream_entries", ("shard", "0")) not in down
                assert kept(down) == kept(counted)
                with pytest.raises(UsageError):
                    worker.flusher.flush(0)
            valkey.restart()
            eventually(lambda: not shown_problem(shown, "redis"), 30)
            flushed(worker)
            assert shown.value("usage_events_total", outcome="applied") >= 3
    proxy.close()


def shown_problem(shown: Shown, check: str) -> Figures:
    """Return the figures if the check fails, else nothing."""
    figures = shown.fresh()
    return figures if figures["usage_problem", ("check", check)] and not figures["usage_healthy",] else {}


def kept(figures: Figures) -> Figures:
    names = ("_total", "_count", "_sum", "_bucket", "success_timestamp_seconds")
    return {key: value for key, value in figures.items() if key[0].endswith(names)}


def test_redis_failures_are_recorded_afterwards(settings: Settings, server_folder: Path) -> None:
    with EmbeddedValkey(server_folder / "metrics-owed") as valkey:
        ours = settings.model_copy(update={"redis_url": valkey.url()})
        with Resources(ours) as worker, closing(BackgroundStatus(ours, 0.05).start()) as background:
            flushed(worker)
            valkey.kill()
            with pytest.raises(UsageError):
                worker.flusher.flush(0)
            valkey.restart()
            with redis.Redis.from_url(valkey.url()) as client:
                add(client, 0, [GOOD])
            flushed(worker)
            assert by(Shown(background).fresh(), "usage_flush_failures_total", "reason") == {"redis": 1}


def test_promtool_finds_nothing_in_served_metrics(
    settings: Settings, worker: Resources, redis_client: redis.Redis, tmp_path: Path
) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "apt-get install prometheus"
    add(redis_client, 0, [GOOD, *BAD["unknown_user"]])
    flushed(worker)
    cli = Cli(tmp_path, DATABASE_URL=settings.require_database(), REDIS_URL=settings.redis_url)
    with served_metrics(cli) as url:
        text = eventually(lambda: scrape(url), 30)
    assert b"usage_event_visible_seconds_bucket" in text
    for scraped in (text, cli.run("metrics").stdout.encode()):
        checked = subprocess.run([promtool, "check", "metrics"], input=scraped, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_scrape_before_the_first_status_has_only_the_build(settings: Settings) -> None:
    background = BackgroundStatus(settings)
    assert background.wait(0) is None
    assert {name for name, *_ in Shown(background).figures(seconds=0.01)} == {"usage_build_info"}


def scrape(url: str) -> bytes:
    try:
        with urlopen(url, timeout=20) as reply:  # noqa: S310 - our own address
            body: bytes = reply.read()
            return body
    except OSError:
        return b""
