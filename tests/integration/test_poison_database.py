"""Values that PostgreSQL, its encoding or a trigger refuses are quarantined alone; an outage quarantines nothing."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.commands import Cli
from tests.integration.database import run, schema
from usage_worker.errors import ConcurrencyError, ObstacleError, UsageError
from usage_worker.ingest.apply import MAX_ATTEMPTS, Applier
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import EMPTY, Runner, discover, latest_version
from usage_worker.migrate.script import script
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from tests.servers import Postgres

POISON = "poison"
TRIGGER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = E'this one\\nis refused', DETAIL = 'quotes a whole row';
END $$;
CREATE {kind} TRIGGER refuse AFTER INSERT ON usage_events {when} FOR EACH ROW
    WHEN (NEW.model = 'poison') EXECUTE FUNCTION refuse();
"""

LEAVES_OUT = """
CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER leave_out BEFORE {when} FOR EACH ROW WHEN (NEW.user_id = '{user}') EXECUTE FUNCTION leave_out();
"""


def body(harness: IngestHarness, *models: str | None) -> str:
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    return json.dumps([pair | ({"model": model} if model else {}) for model in models])


def install(harness: IngestHarness, code: str, kind: str = "", when: str = "") -> None:
    run(harness.resources.settings.database_url, TRIGGER.format(code=code, kind=kind, when=when))


def remove(harness: IngestHarness) -> None:
    run(harness.resources.settings.database_url, "DROP FUNCTION refuse CASCADE")


def test_any_postgresql_error_of_event_is_quarantined(harness: IngestHarness) -> None:
    """Errors of values, constraints, foreign keys and PL/pgSQL, program limits, internal errors, custom codes."""
    codes = ("22012", "23514", "23503", "23505", "P0001", "P0002", "54000", "54001", "XX000", "U0001")
    for code in codes:
        install(harness, code)
        harness.xadd(body(harness, "a", POISON, "b"))
        harness.xadd(body(harness, "c"))
        assert harness.flush() == Intake(4, 3, 0, 1), code
        remove(harness)
    dead_letters = harness.dead_letters()
    assert len(dead_letters) == len(codes)
    for dead_letter in dead_letters:
        assert dead_letter["reason"].endswith(": this one")
        assert json.loads(dead_letter["payload"])["model"] == POISON


def test_event_refused_at_commit_is_quarantined(harness: IngestHarness) -> None:
    install(harness, "23514", "CONSTRAINT", "DEFERRABLE INITIALLY DEFERRED")
    harness.xadd(body(harness, "a", POISON, "b"))
    harness.xadd(body(harness, "c"))
    assert harness.flush() == Intake(4, 3, 0, 1)


@pytest.mark.parametrize("when", ["INSERT ON usage_events", "INSERT ON user_agents", "UPDATE ON user_agents"])
def test_row_that_a_trigger_leaves_out_is_quarantined(harness: IngestHarness, database: str, when: str) -> None:
    """As a quota of the application leaves it out, without an error; others are counted."""

    def count() -> Intake:
        pairs = [{"user_id": str(user), "agent_id": str(harness.agents[0])} for user in harness.users[:3]]
        harness.xadd(json.dumps(pairs))
        return harness.flush()

    if when.startswith("UPDATE"):
        assert count() == Intake(3, 3, 0, 0)
    run(database, LEAVES_OUT.format(when=when, user=harness.users[0]))
    for _ in range(2):
        assert count() == Intake(3, 2, 0, 1)
    assert all("a trigger keeps" in letter["reason"] for letter in harness.dead_letters())
    assert harness.resources.store.rows(testing_query("unbalanced")) == []
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_new_pairs_are_counted_however_late_their_first_attempt_gets_so_far(
    harness: IngestHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts may be lost to anything: an index that is built, deadlocks, other batches."""
    lost = [ConcurrencyError("lost")] * (MAX_ATTEMPTS - 1)
    count = Applier._count

    def late(applier: Applier, *arguments: Any) -> Any:
        if lost:
            raise lost.pop()
        return count(applier, *arguments)

    monkeypatch.setattr(Applier, "_count", late)
    harness.xadd(body(harness, "a", "b"))
    assert harness.flush() == Intake(2, 2, 0, 0)
    assert not lost


def test_entry_that_fails_apart_from_its_events(harness: IngestHarness) -> None:
    """A statement for the whole batch may fail, too; then the entry is the smallest part that can be quarantined."""
    install(harness, "P0001")
    url = harness.resources.settings.database_url
    run(url, "ALTER TABLE usage_events DISABLE TRIGGER refuse")
    run(
        url,
        "CREATE TRIGGER refuse BEFORE INSERT ON usage_intake FOR EACH ROW"
        " WHEN (NEW.applied % 2 = 1) EXECUTE FUNCTION refuse()",
    )
    harness.xadd(body(harness, "a", "b"))
    harness.xadd(body(harness, "c", "d", "e"))
    harness.xadd(body(harness, "f", "g"))
    assert harness.flush() == Intake(7, 4, 0, 3)
    assert [json.loads(dead_letter["payload"])["model"] for dead_letter in harness.dead_letters()] == ["c", "d", "e"]
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


def test_outage_quarantines_nothing(harness: IngestHarness) -> None:
    """A full disk, a shutdown, a missing privilege or table, a wrong statement: the events stay in the stream."""
    harness.xadd(body(harness, "a", POISON, "b"))
    for code in ("53100", "57P01", "42501", "42P01", "42601", "0A000", "25P04", "25006"):
        install(harness, code)
        with pytest.raises((UsageError, psycopg.Error)):
            harness.flush()
        assert harness.dead_letters() == [], code
        assert harness.resources.store.intake_totals() == Intake()
        remove(harness)
        harness.redis.xgroup_destroy("usage:events:{0}", "usage")
    harness.redis.xgroup_destroy("usage:events:{0}", "usage")
    assert harness.flush() == Intake(3, 3, 0, 0)


@contextmanager
def encoded(postgres: Postgres, encoding: str) -> Iterator[str]:
    name = f"usage_test_{uuid4().hex[:12]}"
    # The locale of the server's own databases is C.UTF-8, which has no other encoding.
    locale = "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    run(postgres.url(), f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 {locale}")
    try:
        yield postgres.url(name)
    finally:
        run(postgres.url(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_without_utf8_is_refused(postgres: Postgres, encoding: str, tmp_path: Path) -> None:
    with encoded(postgres, encoding) as url:
        empty = schema(url)
        with pytest.raises(ObstacleError, match=f"encoding is {encoding}.*createdb -E UTF8 -T template0"):
            Runner(url).up()
        assert "createdb" in Cli(tmp_path, DATABASE_URL=url).error_line("migrate up")
        text = script(discover(), EMPTY, latest_version())
        done = subprocess.run(
            [postgres.bin_dir / "psql", "-qX", "-d", url], input=text, check=False, capture_output=True, text=True
        )
        assert "createdb -E UTF8 -T template0" in done.stderr
        assert schema(url) == empty


def test_migrated_database_of_other_encoding(harness: IngestHarness, postgres: Postgres, database: str) -> None:
    """The test changes the encoding in the catalogue; the data so far are ASCII, the same in both encodings."""
    name = database.partition("?")[0].rpartition("/")[2]
    change = """UPDATE pg_database SET encoding = pg_char_to_encoding('LATIN1'), datlocprovider = 'c', datcollate = 'C',
                       datctype = 'C', datlocale = NULL
                 WHERE datname = %s"""
    run(postgres.url(), change, name)
    harness.resources.close()
    harness.xadd(body(harness, "caf\u00e9", "\U0001f600", "b", "\u20ac"))
    harness.xadd(json.dumps([{"\U0001f600": 1}]))
    harness.xadd('[{"\U0001f600": ')
    assert harness.flush() == Intake(6, 2, 0, 4)
    dead_letters = harness.dead_letters()
    assert all(dead_letter["payload"].isascii() and dead_letter["reason"].isascii() for dead_letter in dead_letters)
    whole = [json.loads(dead_letter["payload"]) for dead_letter in dead_letters if dead_letter["payload"].endswith("}")]
    assert {event.get("model") for event in whole} == {"\U0001f600", "\u20ac", None}
    assert run(database, "SELECT model FROM usage_events ORDER BY model") == [("b",), ("caf\u00e9",)]


@pytest.mark.parametrize("where", ["environment", "database", "url"])
def test_connections_set_their_encoding(
    harness: IngestHarness, database: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    url = database
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif where == "database":
        name = database.partition("?")[0].rpartition("/")[2]
        run(database, f"ALTER DATABASE {name} SET client_encoding = 'SQL_ASCII'")
    else:
        url += "&client_encoding=EUC_JIS_2004"
    with closing(Store(url)) as store:
        resources = harness.resources
        resources.close()
        resources.__dict__["store"] = store
        harness.xadd(body(harness, "\U0001f600"))
        assert harness.flush() == Intake(1, 1, 0, 0)
        resources.__dict__.pop("store")
        with store.session() as session:
            assert session.info.encoding == "utf-8"
    assert Runner(url).verify() == []


def test_dead_letter_is_escaped_if_database_refuses_text(harness: IngestHarness) -> None:
    """A trigger accepts only ASCII in the quarantine."""
    url = harness.resources.settings.database_url
    run(url, "ALTER TABLE usage_dead_letters ADD CHECK (payload ~ '^[\\x01-\\x7f]*$' AND length(reason) < 600)")
    harness.xadd('[{"model": "\U0001f600"')
    harness.xadd(body(harness, "a"))
    assert harness.flush() == Intake(2, 1, 0, 1)
    (dead_letter,) = harness.dead_letters()
    assert "\\ud83d\\ude00" in dead_letter["payload"]
