"""The vectors of agents: what is stale, what failed, which model is searched, and pgvector's indexes."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Never

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.helpers import eventually
from tests.integration.agents import DIMENSION, OWNER, add_agents, draw, embed, has_pgvector, names, search
from tests.integration.database import run, with_option
from usage_worker.errors import DataRefusedError, EmbedderError, ObstacleError, ReferenceMissingError
from usage_worker.maintenance.embeddings import EMBED, run_embed
from usage_worker.maintenance.embeddings import embed as embed_agents
from usage_worker.maintenance.task_run import run_task
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.search import (
    Embedding,
    EmbeddingStatus,
    add_model,
    embedding_models,
    embedding_status,
    refresh_quality,
    retire_model,
    set_aside,
    set_default_model,
    set_model_ready,
    stale_agents,
    store_embeddings,
)
from usage_worker.store.vector_index import ensure_vector_indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers import Postgres

PAGE = Path(__file__).parents[2] / "docs" / "search.md"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
INDEXES = """
    SELECT relname::text, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid
     WHERE relname ~ '^agent_embeddings_hnsw_'
"""


class Embedder:
    """An embedder that has nothing left to do."""

    model, dimension, batch_size = "model", DIMENSION, 32

    def embed(self, texts: Sequence[str]) -> Never:
        raise AssertionError(texts)


def counts(store: Store) -> list[tuple[str, int, int, int, int]]:
    return [(s.model, s.agents, s.embedded, s.failed, s.pending) for s in embedding_status(store)]


def test_new_and_changed_texts_are_stale(database: str, store: Store) -> None:
    first, second = add_agents(database, "first", "second", description="described")
    embed(store)
    assert stale_agents(store, "model", 10) == []
    run(database, "UPDATE public.agents SET description = 'otherwise' WHERE id = %s", second)
    run(database, "UPDATE public.agents SET is_active = false WHERE id = %s", first)
    (stale,) = stale_agents(store, "model", 10)
    assert (stale.agent_id, stale.text) == (second, "second. otherwise")
    assert counts(store) == [("model", 2, 1, 0, 1)]
    run(database, "UPDATE public.agents SET name = 'renamed ' || name")
    assert len(stale_agents(store, "model", 10)) == 2
    assert len(stale_agents(store, "model", 1)) == 1


def test_failures_wait_longer_each_time_and_another_text_is_tried_at_once(database: str, store: Store) -> None:
    (agent,) = add_agents(database, "poison")
    add_model(store, "model", DIMENSION)
    (text,) = stale_agents(store, "model", 10)
    waits = []
    for _ in range(14):
        set_aside(store, "model", text, "400 Bad\nRequest")
        row = run(
            database,
            "SELECT attempts, extract(epoch FROM next_try_at - now()) / 60, error FROM public.agent_embedding_failures",
        )
        waits.append(float(row[0][1]))
    assert row[0][0] == 14
    assert "\n" not in row[0][2]
    assert all(shorter < longer for shorter, longer in pairwise(waits[:10]))
    assert max(waits) < 1.1 * 24 * 60
    assert stale_agents(store, "model", 10) == []
    assert counts(store) == [("model", 1, 0, 1, 0)]
    run(database, "UPDATE public.agents SET name = 'harmless'")
    (text,) = stale_agents(store, "model", 10)
    store_embeddings(store, "model", [Embedding(agent, text.content_hash, draw(1))])
    assert counts(store) == [("model", 1, 1, 0, 0)]
    assert run(database, "SELECT FROM public.agent_embedding_failures") == []


def test_agent_deleted_meanwhile(database: str, store: Store) -> None:
    kept, gone = add_agents(database, "kept", "gone")
    add_model(store, "model", DIMENSION)
    texts = stale_agents(store, "model", 10)
    run(database, "DELETE FROM public.agents WHERE id = %s", gone)
    assert store_embeddings(store, "model", [Embedding(t.agent_id, t.content_hash, draw(1)) for t in texts]) == 1
    set_aside(store, "model", next(t for t in texts if t.agent_id == gone), "no")
    assert run(database, "SELECT agent_id FROM public.agent_embeddings") == [(kept,)]
    run(database, "DELETE FROM public.agents")
    assert counts(store) == [("model", 0, 0, 0, 0)]


def test_agent_that_is_deleted_at_the_same_moment(database: str, store: Store) -> None:
    """The foreign key waits for the transaction that deletes it, and a second attempt leaves it out."""
    _kept, gone = add_agents(database, "kept", "gone")
    add_model(store, "model", DIMENSION)
    found = [Embedding(t.agent_id, t.content_hash, draw(1)) for t in stale_agents(store, "model", 10)]
    with psycopg.connect(database) as deleter, ThreadPoolExecutor() as pool:
        deleter.execute("DELETE FROM public.agents WHERE id = %s", [gone])
        written = pool.submit(store_embeddings, store, "model", found)
        eventually(lambda: run(database, WAITING))
        deleter.commit()
        with pytest.raises(ReferenceMissingError):
            written.result()
    assert store_embeddings(store, "model", found) == 1


def test_platform_that_owns_the_agents_need_not_let_them_be_locked(
    database: str, store: Store, ingest_url: str, ingest_login: str
) -> None:
    add_agents(database, "agent", "other")
    add_model(store, "model", DIMENSION)
    for table in ("agent_embeddings", "agent_embedding_failures", "agent_embedding_models"):
        run(database, f"ALTER TABLE public.{table} OWNER TO {ingest_login}")
    run(database, f"GRANT EXECUTE ON FUNCTION public.agent_embedding_is_unit TO {ingest_login}")
    run(database, f"GRANT SELECT, REFERENCES ON public.agents TO {ingest_login}")
    run(database, f"CREATE POLICY everything ON public.agents TO {ingest_login} USING (true)")
    with Store(ingest_url) as limited:
        embed(limited)
    assert counts(store) == [("model", 2, 2, 0, 0)]


def test_one_wrong_vector_refuses_the_batch(database: str, store: Store) -> None:
    add_agents(database, "first", "second")
    add_model(store, "model", DIMENSION)
    good, bad = stale_agents(store, "model", 10)
    with pytest.raises(DataRefusedError):
        store_embeddings(
            store,
            "model",
            [Embedding(good.agent_id, good.content_hash, draw(1)), Embedding(bad.agent_id, bad.content_hash, [1.0])],
        )
    assert counts(store) == [("model", 2, 0, 0, 2)]


def test_two_models_and_the_default(database: str, store: Store) -> None:
    add_agents(database, "agent")
    embed(store, "old")
    add_model(store, "new", DIMENSION)
    assert not set_default_model(store, "new")
    assert [m.model for m in embedding_models(store) if m.is_default] == ["old"]
    assert search(database, draw(0), model="new") == []
    embed(store, "new")
    assert set_default_model(store, "new")
    assert [m.model for m in embedding_models(store) if m.is_default] == ["new"]
    assert names(search(database, draw(0), model="old")) == names(search(database, draw(0))) == ["agent"]
    assert retire_model(store, "old") == 1
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="retired"):
        search(database, draw(0), model="old")
    assert embedding_status(store)[1] == EmbeddingStatus("old", DIMENSION, "retired", False, 0, 0, 0, 0)
    add_model(store, "old", DIMENSION)
    assert embedding_status(store)[1] == EmbeddingStatus("old", DIMENSION, "filling", False, 1, 0, 0, 1)


def test_model_keeps_its_dimension(store: Store) -> None:
    add_model(store, "model", DIMENSION)
    with pytest.raises(ObstacleError, match="another name"):
        add_model(store, "model", DIMENSION + 1)


def test_index_is_built_once_and_dropped_with_its_model(database: str, store: Store) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    assert ensure_vector_indexes(store, "test").built == []
    report = ensure_vector_indexes(store, "test", rows=10)
    if not has_pgvector(database):
        assert report.notes == ["the server has no extension vector (pgvector)"]
        assert run(database, INDEXES) == []
        return
    assert run(database, INDEXES) == [(report.built[0], True)]
    assert ensure_vector_indexes(store, "test", rows=10).built == []
    assert Runner(database).verify() == []
    retire_model(store, "model")
    assert ensure_vector_indexes(store, "test", rows=10).dropped == report.built
    assert run(database, INDEXES) == []


def test_dump_with_pgvector_is_restored_without(
    database: str, empty_database: str, store: Store, postgres: Postgres, tmp_path: Path
) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    ensure_vector_indexes(store, "test", rows=10)
    block = re.search(r"((?:    pg_\w+ .*\n)+)", PAGE.read_text())
    assert block
    dump = 'pg_dump --format=custom --file=backup.dump "$DATABASE_URL"'
    environment = {
        **os.environ,
        "PATH": f"{postgres.bin_dir}:{os.environ['PATH']}",
        "DATABASE_URL": database,
        "RESTORED_URL": empty_database,
    }
    subprocess.run(["sh", "-e", "-c", f"{dump}\n{block[1]}"], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert run(empty_database, "SELECT extname FROM pg_extension WHERE extname = 'vector'") == []
    assert Runner(empty_database).verify() == []
    assert search(empty_database, draw(1000)) == [
        (*row[:4], pytest.approx(row[4], abs=1e-6), *row[5:]) for row in search(database, draw(1000))
    ]


def test_extension_is_there_as_soon_as_searches_need_it(database: str, store: Store) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    installed = "SELECT extname::text FROM pg_extension WHERE extname = 'vector'"
    ensure_vector_indexes(store, "test", unaided=20)
    assert run(database, installed) == []
    report = ensure_vector_indexes(store, "test", unaided=19)
    assert report.built == []
    if has_pgvector(database):
        assert run(database, installed) == [("vector",)]
    else:
        assert report.notes == ["the server has no extension vector (pgvector)"]


def test_extension_that_users_may_not_enter_is_noted(database: str, store: Store) -> None:
    add_agents(database, "agent", "other")
    run(database, "CREATE SCHEMA extensions")
    report = ensure_vector_indexes(store, "test", unaided=1)
    if has_pgvector(database):
        assert report.notes == [
            "authenticated may not use the schema extensions, where the extension vector is; run GRANT USAGE"
        ]


def test_killed_build_is_replaced(database: str, store: Store) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    name = "agent_embeddings_hnsw_20f35e630daf"  # the beginning of the MD5 of "model"
    # A build that is cancelled while it waits for a writer leaves an invalid index, as one of a killed server does.
    with closing(psycopg.connect(database)) as writer, psycopg.connect(database, autocommit=True) as builder:
        writer.execute("UPDATE public.agent_embeddings SET embedded_at = now()")
        builder.execute("SET statement_timeout = '2s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute(f"CREATE INDEX CONCURRENTLY {name} ON public.agent_embeddings (embedded_at)".encode())
    assert run(database, INDEXES) == [(name, False)]
    report = ensure_vector_indexes(store, "test", rows=10)
    assert report.dropped == [name]
    assert run(database, INDEXES) == ([(name, True)] if has_pgvector(database) else [])


def test_build_outlives_a_limit_of_statements(database: str, store: Store) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    url = with_option(database, "statement_timeout=500ms")
    waits_longer = f"{WAITING} AND query_start < clock_timestamp() - interval '600 milliseconds'"
    with closing(psycopg.connect(database)) as older, ThreadPoolExecutor(1) as pool, Store(url) as limited:
        older.execute("UPDATE public.agent_embeddings SET embedded_at = now()")
        build = pool.submit(ensure_vector_indexes, limited, "test", rows=10)
        if has_pgvector(database):
            eventually(lambda: run(database, waits_longer))
        older.rollback()
        assert len(build.result(30).built) == has_pgvector(database)


def broken(_: Settings) -> None:
    raise EmbedderError("the model does not answer")


def test_worker_rests_for_an_hour_after_a_build_or_drop_that_waited_in_vain(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pgvector(database):
        pytest.skip("the server has no pgvector")
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    indexing = partial(ensure_vector_indexes, rows=10)
    monkeypatch.setattr("usage_worker.maintenance.embeddings.ensure_vector_indexes", indexing)
    monkeypatch.setattr("usage_worker.store.vector_index.LOCK_TIMEOUT", "100ms")
    work = partial(embed_agents, store, Embedder(), 30.0)
    with closing(psycopg.connect(database)) as older, capture_logs() as lines:
        older.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        older.execute("LOCK TABLE public.agent_embeddings IN ACCESS SHARE MODE")  # as pg_dump does
        older.execute("SELECT FROM pg_class")
        failed_at = run_task(store, EMBED, work)["index_failed_at"]
        for _ in range(2):
            assert run_task(store, EMBED, work)["index_failed_at"] == failed_at is not None
        monkeypatch.setattr("usage_worker.maintenance.embeddings.embedder_of", broken)
        assert run_embed(store, Settings())["index_failed_at"] == failed_at
    waited, refused = (line["reason"] for line in lines if "reason" in line)
    assert waited.endswith("canceling statement due to lock timeout")
    assert refused.endswith("the model does not answer")
    assert [is_valid for _, is_valid in run(database, INDEXES)] == [False]
    earlier = 'report || \'{"index_failed_at": "2026-01-01T00:00:00+00:00"}\''
    run(database, f"UPDATE public.usage_task_runs SET report = {earlier}")
    assert run_task(store, EMBED, work)["index_failed_at"] is None
    assert [is_valid for _, is_valid in run(database, INDEXES)] == [True]


def test_role_that_may_not_create_the_extension(
    database: str, store: Store, ingest_url: str, ingest_login: str
) -> None:
    add_agents(database, *(f"agent {number}" for number in range(20)))
    embed(store)
    run(database, f"ALTER TABLE public.agent_embeddings OWNER TO {ingest_login}")
    for table in ("agents", "agent_embedding_models"):
        run(database, f"GRANT SELECT ON public.{table} TO {ingest_login}")
        run(database, f"CREATE POLICY everything ON public.{table} TO {ingest_login} USING (true)")
    with Store(ingest_url) as limited:
        report = ensure_vector_indexes(limited, "test", rows=10)
    missing = "this role may not create it" if has_pgvector(database) else "the server has no extension vector"
    assert report.built == []
    assert missing in report.notes[0]


def test_quality_of_five_users_breaks_ties(database: str, store: Store) -> None:
    good, bad, new, few = add_agents(database, "a good", "a bad", "a new", "a few")
    embed(store)
    run(database, "INSERT INTO auth.users (id) SELECT md5(i::text)::uuid FROM generate_series(1, 20) AS i")
    insert = """
        INSERT INTO public.user_agents (user_id, agent_id, usage_count, success_count, error_count, user_rating)
        SELECT md5(i::text)::uuid, %s, 10, %s, 10 - %s, %s FROM generate_series(1, %s) AS i
    """
    run(database, insert, good, 10, 10, 5, 20)
    run(database, insert, bad, 1, 1, 1, 20)
    run(database, insert, few, 10, 10, 5, 4)
    assert refresh_quality(store, "test") == 2
    found = dict(run(database, "SELECT agent_id, difference FROM public.agent_search_quality"))
    assert found[good] == -found[bad] > 0
    assert round(found[good] / 0.02, 4) == round(found[good] / 0.02)
    run(
        database,
        "UPDATE public.agent_embeddings SET embedding = (SELECT embedding FROM public.agent_embeddings LIMIT 1)",
    )
    found_agents = [row[1] for row in search(database, draw(0), user=OWNER)]
    assert (found_agents[0], found_agents[-1]) == (good, bad)
    assert [row[1] for row in search(database, draw(0), user=OWNER, quality_weight=0)] == sorted([good, bad, new, few])
    run(database, "DELETE FROM public.user_agents WHERE agent_id = %s", bad)
    assert refresh_quality(store, "test") is None, "a second time on the same UTC day"
    run(database, "UPDATE public.agent_search_quality SET computed_at = computed_at - interval '1 day'")
    assert refresh_quality(store, "test") == 1
    assert run(database, "SELECT agent_id, difference FROM public.agent_search_quality") == [(good, 0)]


def test_ready_model_becomes_the_default_if_there_is_none(store: Store) -> None:
    for name in ("first", "second"):
        add_model(store, name, DIMENSION)
        set_model_ready(store, name)
    assert [(m.model, m.is_default) for m in embedding_models(store)] == [("first", True), ("second", False)]
