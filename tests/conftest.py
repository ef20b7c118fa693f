"""Real servers for the tests: embedded ones, or those that DATABASE_URL and REDIS_URL name.

With `--postgres-bin FOLDER` and `--redis-server FILE` the system's programs are started instead, which may be older.
A server that cannot start fails the tests instead of skipping them. Every test gets its own database, so that tests
are independent; it is dropped afterwards, and nothing else on a given server is changed.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from hypothesis import settings
from psycopg import sql

from tests.longest_first import pytest_collection_modifyitems
from tests.memory_files import keep_temporary_files_in_memory
from tests.midnight import await_new_day, in_one_day
from tests.servers import (
    FAST_POSTGRES,
    FAST_VALKEY,
    GivenPostgres,
    GivenValkey,
    InstalledPostgres,
    InstalledRedis,
    joined,
)
from tests.sessions import close_free_sessions, lent_session
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.local.account import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Postgres, Valkey

__all__ = ["in_one_day", "pytest_collection_modifyitems"]

# Asserts of what the tests share show their values too.
for shared in ("access", "chaos", "erasure", "faults", "hostile", "integration", "plain_fold", "system"):
    pytest.register_assert_rewrite(f"tests.{shared}")
# Hypothesis' default deadline of 0.2 s for an example failed on a busy machine, where nothing was wrong.
settings.register_profile("tests", settings(), deadline=None)
settings.load_profile("tests")
# `make fuzz`: a million examples of each property instead of a hundred.
settings.register_profile("fuzz", max_examples=1_000_000, deadline=None)
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"


def pytest_configure() -> None:
    keep_temporary_files_in_memory()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres-bin", type=Path, metavar="FOLDER", help="start PostgreSQL from this folder")
    parser.addoption("--redis-server", type=Path, metavar="FILE", help="start this Redis or Valkey")


def pytest_report_header(config: pytest.Config) -> str:
    postgres = config.getoption("--postgres-bin") or _given("DATABASE_URL")
    return f"PostgreSQL: {postgres}, Redis: {config.getoption('--redis-server') or _given('REDIS_URL')}"


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Return a folder with a short path that the servers' account can enter, unlike those of pytest."""
    with temporary_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def module_folder(server_folder: Path) -> Path:
    """Return a new folder in `server_folder`; pytest-xdist may make the servers of a module twice in one process."""
    folder = Path(tempfile.mkdtemp(dir=server_folder))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def postgres(server_folder: Path, pytestconfig: pytest.Config) -> Iterator[Postgres]:
    programs = pytestconfig.getoption("--postgres-bin")
    if programs:
        with InstalledPostgres(programs, server_folder / "postgres") as installed:
            yield installed
        return
    given = os.environ.get("DATABASE_URL")
    if given:
        yield GivenPostgres(given, server_folder)
        return
    with EmbeddedPostgres(server_folder / "postgres", FAST_POSTGRES) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(server_folder: Path, pytestconfig: pytest.Config) -> Iterator[Valkey]:
    program = pytestconfig.getoption("--redis-server")
    if program:
        with InstalledRedis(program, server_folder / "redis") as installed:
            yield installed
        return
    given = os.environ.get("REDIS_URL")
    if given:
        yield GivenValkey(given)
        return
    with EmbeddedValkey(server_folder / "valkey", FAST_VALKEY) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Return what gives the name of a migrated database to copy; copying fails while a session is connected to it.

    It has the partitions of today; a run of the tests may go on past midnight, and then makes another.
    """
    from usage_worker.migrate import Runner  # noqa: PLC0415 - only tests with a schema need it

    with ExitStack() as databases:

        @cache
        def template_of(_: date) -> str:
            name = databases.enter_context(new_database(postgres))
            Runner(postgres.url(name)).up()
            return name

        def template_of_today() -> str:
            await_new_day()  # also before the fixtures of a module, which fill a copy
            return template_of(datetime.now(UTC).date())

        yield template_of_today


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """Return the URL of a new database without a schema."""
    with new_database(postgres) as name:
        yield postgres.url(name)


@pytest.fixture
def database(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[str]:
    """Return the URL of a new database with the newest schema."""
    with new_database(postgres, template_database()) as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def ingest_login(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[str]:
    """Return a login role that has nothing but `usage_ingest`."""
    name = f"usage_test_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE ROLE {} LOGIN IN ROLE usage_ingest PASSWORD {}")
    with psycopg.connect(postgres.url(template_database()), autocommit=True) as connection:
        password = connection.info.password or None
        connection.execute(create.format(sql.Identifier(name), sql.Literal(password)))
    yield name
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def ingest_url(database: str, ingest_login: str) -> str:
    """Return the URL of `database` for a worker that counts: a login role that has nothing but `usage_ingest`."""
    return as_login(database, ingest_login)


def as_login(database: str, login: str) -> str:
    """Return the URL of a database for another login, with the password that the URL has."""
    url = urlsplit(database)
    own, _, host = url.netloc.rpartition("@")
    _, colon, password = own.partition(":")
    return joined(url._replace(netloc=f"{login}{colon}{password}@{host}"), url.path, url.query)


@pytest.fixture(scope="session")
def redis_users(valkey: Valkey) -> Iterator[str]:
    """Make the users of Redis that docs/operations.md describes, with what it says; return their password."""
    password = uuid.uuid4().hex
    lines = [line.split() for line in OPERATIONS.read_text("utf-8").splitlines() if "ACL SETUSER" in line]
    with redis.Redis.from_url(valkey.url()) as client:
        for line in lines:
            client.execute_command(*(word.replace("PASSWORD", password) for word in line))
        yield password
        client.acl_deluser(*(line[2] for line in lines))


@pytest.fixture
def redis_worker_url(redis_url: str, redis_users: str) -> str:
    """Return the URL of the same Valkey database for the user of workers."""
    return with_login(redis_url, "usage-worker", redis_users)


@pytest.fixture
def redis_publisher_url(redis_url: str, redis_users: str) -> str:
    """Return the URL of the same Valkey database for the user of publishers."""
    return with_login(redis_url, "usage-publisher", redis_users)


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """Return the URL of an empty Valkey database."""
    url = valkey.url()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """Return a client of the database of `redis_url`; answers are bytes."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def with_login(url: str, user: str, password: str) -> str:
    """Return the URL of Redis for another user."""
    parts = urlsplit(url)
    place = f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"
    return joined(parts._replace(netloc=place), parts.path, parts.query)


def _given(variable: str) -> str:
    return variable if os.environ.get(variable) else "embedded"


@contextmanager
def new_database(postgres: Postgres, template: str = "template1") -> Iterator[str]:
    name = f"usage_test_{uuid.uuid4().hex[:12]}"
    # Its checkpoints cost less than the log of every page: 21 ms of processor time instead of 39 ms.
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    create = copy.format(sql.Identifier(name), sql.Identifier(template))
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    with lent_session(postgres.url()) as session:
        close_free_sessions()  # perhaps of the template
        session.execute(create)
    try:
        yield name
    finally:
        with lent_session(postgres.url()) as session:
            close_free_sessions()  # to end them, DROP would wait for at least 0.1 s
            session.execute(drop)
