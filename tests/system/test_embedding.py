"""The task that embeds agents, by the embedder on this machine and by a service: what it does, and what stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli
from tests.integration.database import run
from tests.system.embedding_server import KEY, POISON, EmbeddingService, embedding_service, status
from usage_worker.embedders import embedder_of
from usage_worker.errors import DataRefusedError, EmbedderUnavailableError
from usage_worker.maintenance.embeddings import EMBED, EmbedReport, embed, run_embed
from usage_worker.maintenance.task_run import run_task
from usage_worker.monitoring.background import collected
from usage_worker.monitoring.metrics import families
from usage_worker.monitoring.status import collect_status
from usage_worker.search import find_agents
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.search import embedding_models, embedding_status
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from usage_worker.embedders import Embedder

MINILM = "all-MiniLM-L6-v2-int8"


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    with Store(database) as store:
        yield store


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with embedding_service() as server:
        yield server


def _minilm(database: str) -> Settings:
    return Settings(DATABASE_URL=database, embedder="minilm")


def _service(database: str, service: EmbeddingService, model: str = "remote") -> Settings:
    return Settings(
        DATABASE_URL=database,
        embedder="openai",
        embedder_url=service.url,
        embedder_model=model,
        embedder_key=KEY,
    )


def _embedder(settings: Settings) -> Embedder:
    embedder = embedder_of(settings)
    assert embedder
    return embedder


def _add(database: str, *agents: tuple[str, str]) -> list[UUID]:
    insert = "INSERT INTO public.agents (name, description) VALUES (%s, %s) RETURNING id"
    return [run(database, insert, name, description)[0][0] for name, description in agents]


AGENTS = (
    ("Trip Planner", "Compares flights and hotels"),
    ("Tax Helper", "Explains income tax"),
    ("Gardener", "Says when to sow and to water"),
)


def test_agents_get_vectors_and_changed_ones_a_new_one(database: str, store: Store) -> None:
    settings = _minilm(database)
    trip, tax, _ = _add(database, *AGENTS)
    first = run_embed(store, settings)
    assert (first["embedded"], first["pending"], first["failed"], first["pending_since"]) == (3, 0, 0, None)
    assert [(it.model, it.dimension, it.state, it.is_default) for it in embedding_models(store)] == [
        (MINILM, 384, "ready", True)
    ]
    found = find_agents(store, settings, "where to spend my holiday", 3)
    assert (found.model, found.agents[0].agent_id, found.agents[0].matched_by) == (MINILM, trip, ["vector"])
    assert run_embed(store, settings)["embedded"] == 0
    run(database, "UPDATE public.agents SET description = 'Books holidays at the sea' WHERE id = %s", tax)
    run(database, "DELETE FROM public.agents WHERE id = %s", trip)
    assert run_embed(store, settings)["embedded"] == 1
    assert find_agents(store, settings, "where to spend my holiday", 3).agents[0].agent_id == tax
    assert last_runs(store)[EMBED].report["pending"] == 0


def test_nothing_close_is_said(database: str, store: Store) -> None:
    _add(database, *AGENTS)
    settings = _minilm(database)
    run_embed(store, settings)
    assert find_agents(store, settings, "where to spend my holiday", 3).is_close
    far = find_agents(store, settings, "xylophone quantum zebra", 3)
    assert len(far.agents) == 3
    assert not far.is_close


def test_budget_ends_a_run_and_the_next_one_goes_on(database: str, store: Store) -> None:
    _add(database, *((f"agent {number}", "") for number in range(70)))
    report = embed(store, _embedder(_minilm(database)), 0.0)
    assert (report.embedded, report.pending) == (32, 38)
    assert [it.state for it in embedding_models(store)] == ["filling"]
    found = find_agents(store, _minilm(database), "agent 7", 3)
    assert (found.model, found.reason) == (None, f"{MINILM} is filling; run `usage-worker run embed`")
    assert embed(store, _embedder(_minilm(database))).embedded == 38


def test_text_that_is_refused_is_set_aside(database: str, store: Store, service: EmbeddingService) -> None:
    settings = _service(database, service)
    _add(database, *((f"agent {number}", POISON if number == 41 else "works") for number in range(70)))
    report = run_embed(store, settings)
    assert (report["embedded"], report["refused"], report["failed"], report["pending"]) == (69, 1, 1, 0)
    assert run(database, "SELECT error, attempts FROM public.agent_embedding_failures") == [
        ("a text cannot be embedded: the service answers 400 Bad Request", 1)
    ]
    service.batches.clear()
    again = run_embed(store, settings)
    assert (again["refused"], again["failed"], service.batches) == (0, 1, [])
    (check,) = (it for it in collect_status(settings).checks if it.name == "embeddings")
    assert (check.state, check.reason) == ("warn", "the texts of 1 agents cannot be embedded; each is tried again")
    samples = [sample for family in families(collected(settings)) for sample in family.samples]
    counts = {it.labels["reason"]: it.value for it in samples if it.name == "usage_agents_not_embedded"}
    assert counts == {"pending": 0, "failed": 1}
    run(database, "UPDATE public.agents SET description = 'works' WHERE description = %s", POISON)
    assert run_embed(store, settings)["embedded"] == 1
    assert embedding_status(store)[0].failed == 0


def test_model_that_can_embed_few_agents_is_not_searched(
    database: str, store: Store, service: EmbeddingService
) -> None:
    settings = _service(database, service)
    _add(database, ("Poisoned", POISON), ("Poisoned, too", POISON), ("Works", ""))
    assert run_embed(store, settings)["failed"] == 2
    assert _models(store) == [("remote", "filling", False)]
    assert find_agents(store, settings, "works", 3).reason == "remote is filling; run `usage-worker run embed`"
    run(database, "UPDATE public.agents SET description = 'works' WHERE name = 'Poisoned'")
    run_embed(store, settings)
    assert _models(store) == [("remote", "ready", True)]


def test_query_is_cut_and_one_that_is_refused_is_not_sent(
    database: str, store: Store, service: EmbeddingService
) -> None:
    settings = _service(database, service)
    _add(database, *AGENTS)
    run_embed(store, settings)
    find_agents(store, settings, "a" * 9_000, 3)
    assert service.batches.pop() == ["a" * 8_000]
    service.batches.clear()
    with pytest.raises(DataRefusedError, match="more than 10,000 characters"):
        find_agents(store, settings, "a" * 10_001, 3)
    assert service.batches == []


def test_more_agents_than_are_compared_without_pgvector(database: str, store: Store) -> None:
    settings = _minilm(database)
    trip, *_ = _add(database, *AGENTS)
    run_embed(store, settings)
    run(database, "INSERT INTO public.agents (name) SELECT 'agent ' || n FROM generate_series(1, 5000) AS n")
    found = find_agents(store, settings, "trip", 3)
    assert [it.agent_id for it in found.agents] == [trip]
    assert (found.model, found.reason) == (None, "more than 5000 agents need the extension vector (pgvector)")


def test_time_of_the_first_pending_agent_is_kept(database: str, store: Store) -> None:
    embedder = _embedder(_minilm(database))
    for count in (40, 80):
        _add(database, *((f"agent {number}", "") for number in range(count)))
        figures = run_task(store, EMBED, partial(embed, store, embedder, 0.0))
        assert figures["pending"]
        assert figures["pending_since"] == ("2026-01-01" if count == 80 else figures["pending_since"]) is not None
        run(
            database,
            "UPDATE public.usage_task_runs SET report = jsonb_set(report, '{pending_since}', '\"2026-01-01\"')",
        )
    assert run_task(store, EMBED, partial(embed, store, embedder))["pending_since"] is None


def test_service_that_fails_stops_the_run_and_is_named(database: str, store: Store, service: EmbeddingService) -> None:
    settings = _service(database, service)
    _add(database, *AGENTS)
    service.faults = [status(503, Retry_After="3600")]
    report = run_embed(store, settings)
    reason = "the embedder is not available: the service answers 503 Service Unavailable"
    assert (report["embedded"], report["failed"], report["problem"]) == (0, 0, reason)
    (check,) = (it for it in collect_status(settings).checks if it.name == "embeddings")
    assert (check.state, check.reason) == ("warn", reason)
    assert run_embed(store, settings)["embedded"] == 3
    service.faults = [status(503, Retry_After="3600")]
    found = find_agents(store, settings, "tax", 3)
    assert (found.model, found.reason, found.agents[0].name) == (None, reason, "Tax Helper")


def test_service_that_fails_in_the_middle_keeps_what_is_done(
    database: str, store: Store, service: EmbeddingService
) -> None:
    embedder = _embedder(_service(database, service))
    assert embedder.dimension == 384
    _add(database, *((f"agent {number}", "works") for number in range(100)))
    service.faults = [lambda handler, it: handler.reply(200, service.answer(it["input"])), *[status(500)] * 4]
    report = EmbedReport()
    with pytest.raises(EmbedderUnavailableError):
        embed(store, embedder, report=report)
    assert (report.embedded, report.pending) == (64, 36)
    assert embed(store, embedder).embedded == 36


def test_old_model_answers_until_the_new_one_is_ready(database: str, store: Store, service: EmbeddingService) -> None:
    _add(database, *((f"agent {number}", "works") for number in range(100)))
    run_embed(store, _minilm(database))
    new = _service(database, service)
    embed(store, _embedder(new), 0.0)
    assert _models(store) == [(MINILM, "ready", True), ("remote", "filling", False)]
    assert find_agents(store, _minilm(database), "agent 7", 3).model == MINILM
    run_embed(store, new)
    assert _models(store) == [(MINILM, "ready", False), ("remote", "ready", True)]
    assert find_agents(store, new, "agent 7", 3).model == "remote"
    assert find_agents(store, _minilm(database), "agent 7", 3).model == MINILM


def _models(store: Store) -> list[tuple[str, str, bool]]:
    return [(it.model, it.state, it.is_default) for it in embedding_models(store)]


def test_killed_run_is_resumed(database: str, store: Store, tmp_path: Path, redis_url: str) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url, USAGE_EMBEDDER="minilm")
    long = "plans trips and books hotels, flights and trains for groups of people " * 5
    run(
        database,
        "INSERT INTO public.agents (name, description) SELECT 'agent ' || n, %s FROM generate_series(1, 150) n",
        long,
    )
    process = subprocess.Popen([PROGRAM, "run", "embed"], cwd=tmp_path, env=cli.env, stderr=subprocess.DEVNULL)
    count = "SELECT count(*) FROM public.agent_embeddings"
    eventually(lambda: run(database, count)[0][0] >= 32, 30)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = run(database, count)[0][0]
    assert 32 <= done < 150
    resumed = cli.run("run", "embed", "--json")
    assert resumed.returncode == 0, resumed.stderr
    figures = json.loads(resumed.stdout)
    assert (figures["embedded"], figures["pending"], figures["failed"]) == (150 - done, 0, 0)
    assert run(database, count) == [(150,)]


def test_neither_texts_nor_key_are_logged(
    database: str, tmp_path: Path, redis_url: str, service: EmbeddingService
) -> None:
    """`Cli.run` itself finds the key in any output."""
    words = ("Zanzibar", "Xanthippe")
    _add(database, (words[0], f"{words[1]} {POISON}"), (words[0], words[1]))
    given = {"USAGE_EMBEDDER_URL": service.url, "USAGE_EMBEDDER_MODEL": "remote", "USAGE_EMBEDDER_KEY": KEY}
    cli = Cli(
        tmp_path, DATABASE_URL=database, REDIS_URL=redis_url, USAGE_EMBEDDER="openai", USAGE_LOG_LEVEL="debug", **given
    )
    outputs = [cli.run("run", "embed"), cli.run("run", "embed", "--status"), cli.run("status", "--json")]
    cli.env["USAGE_EMBEDDER_KEY"] = f"{KEY}other"
    outputs += [cli.run("run", "embed"), cli.run("search", "tax")]
    assert [it.returncode for it in outputs] == [1, 0, 1, 1, 0]
    said = r"1 agent embedded by remote in \d+\.\d s, 0 pending; 1 text cannot be embedded\n"
    assert re.fullmatch(said, outputs[0].stdout)
    assert outputs[3].stderr.endswith(
        "the service answers 401 Unauthorized; are USAGE_EMBEDDER_URL and USAGE_EMBEDDER_KEY right?\n"
    )
    everything = "".join(it.stdout + it.stderr for it in outputs)
    assert not [word for word in words if word in everything]


def test_commands_show_models_and_agents(database: str, tmp_path: Path, redis_url: str) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url, USAGE_EMBEDDER="minilm")
    _add(database, *AGENTS)
    assert re.fullmatch(rf"3 agents embedded by {MINILM} in \d+\.\d s, 0 pending\n", cli.run("run", "embed").stdout)
    assert cli.run("run", "embed", "--status").stdout.splitlines()[1].split("\t") == [
        MINILM,
        "384",
        "ready",
        "yes",
        "3",
        "0",
        "0",
    ]
    lines = cli.run("search", "where to spend my holiday", "-k", "2").stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["1", "Trip Planner"], ["2", "Gardener"]]
    document: dict[str, Any] = json.loads(cli.run("search", "trip planner", "--json").stdout)
    assert (document["model"], document["is_close"]) == (MINILM, True)
    assert document["agents"][0]["matched_by"] == ["vector", "text", "name"]
    assert "searches use" in cli.run("run", "embed", "--retire", MINILM).stderr
