"""Every command with the login of a worker, which may count and show, and nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.conftest import new_database
from tests.integration.commands import Cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Postgres

OWNER = "this needs the owner's DATABASE_URL"
SERVICE = "this needs the DATABASE_URL of the owner, or of a login with service_role"
READER = "this needs the DATABASE_URL of the owner, or of a login with authenticated or service_role"
ID = str(UUID(int=7))
REFUSED = {
    "dead-letters list": OWNER,
    "dead-letters list --by-reason": OWNER,
    "dead-letters show 1": OWNER,
    "dead-letters export": OWNER,
    "dead-letters replay --all": OWNER,
    "dead-letters discard --all --yes": OWNER,
    "anomalies": SERVICE,
    "report": SERVICE,
    "report --by user": SERVICE,
    "report --html page.html": SERVICE,
    f"report --user {ID}": SERVICE,
    "search text": READER,
    f"related {ID}": READER,
    "run partitions": OWNER,
    "run reconcile": OWNER,
    "run refresh": OWNER,
    "run purge": OWNER,
    "run purge --dry-run": OWNER,
    "run graph": OWNER,
    "run anomalies": OWNER,
    "run quality": OWNER,
    "run dead-letters": OWNER,
    "run embed --status": OWNER,
    "migrate up": OWNER,
    "migrate down --to 3.0.0 --yes": OWNER,
    "migrate verify": OWNER,
    "migrate repair": OWNER,
}
ALLOWED = ("drain", "schedule", "metrics", "migrate status")


@pytest.fixture(scope="module")
def login_url(postgres: Postgres, template_database: Callable[[], str], ingest_login: str) -> Iterator[str]:
    """Yield the URL of one database for all commands, as a login with `usage_ingest` alone."""
    with new_database(postgres, template_database()) as name:
        yield re.sub(r"//[^:@]*", f"//{ingest_login}", postgres.url(name), count=1)


@pytest.fixture
def cli(tmp_path: Path, login_url: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=login_url, REDIS_URL=redis_url)


@pytest.mark.parametrize("command", REFUSED)
def test_refusal_names_the_needed_role(cli: Cli, command: str) -> None:
    line = cli.error_line(command)
    assert line.startswith("usage-worker: the role lacks a right: "), line
    assert line.endswith(f"; {REFUSED[command]}"), line


@pytest.mark.parametrize("command", ALLOWED)
def test_allowed_command_works(cli: Cli, command: str) -> None:
    done = cli.run(*command.split())
    assert done.returncode == 0, done
