"""The wheel in an empty environment, and the container files, which no Docker engine runs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.integration.database import run
from tests.integration.installed import ROOT, copied_files
from usage_worker.migrate import latest_version
from usage_worker.monitoring.checks.shards import SILENCE_SECONDS
from usage_worker.service.queues import QueueName
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Postgres
    from tests.integration.installed import Installed

# Names that other programs read: libpq, Celery.
FOREIGN = {"PGPASSWORD"}
OURS = ("migrate", "worker", "maintenance", "beat", "flower")


@pytest.fixture(scope="session")
def compose(installed: Installed) -> dict[str, Any]:
    """Return the compose file, with anchors and merges resolved."""
    program = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    document = installed.run("python", "-c", program, stdin=(ROOT / "docker-compose.yml").read_text())
    found: dict[str, Any] = json.loads(document)
    return found


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_wheel_holds_every_file_that_is_read(installed: Installed) -> None:
    source = installed.wheel.source
    expected = {f"usage_worker/migrations/{path.name}" for path in (source / "migrations").glob("*.sql")}
    expected |= {str(path.relative_to(source / "worker")) for path in (source / "worker").rglob("*.sql")}
    page = source / "worker" / "usage_worker" / "report"
    assets = [path for path in page.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert {"page.css", "page.js", "echarts.common.min.js", "LICENSE", "NOTICE"} <= {path.name for path in assets}
    expected |= {str(path.relative_to(source / "worker")) for path in assets}
    expected.add("usage_worker/py.typed")
    assert len(expected) > 30
    assert expected - set(zipfile.ZipFile(installed.wheel.path).namelist()) == set()


def test_installed_command_migrates_and_counts(installed: Installed, empty_database: str, redis_url: str) -> None:
    servers = {"DATABASE_URL": empty_database, "REDIS_URL": redis_url, "USAGE_UNKNOWN": "create"}
    assert installed.run("usage-worker", "migrate", "up", **servers).endswith(f"the schema is {latest_version()}\n")
    verified = installed.run("usage-worker", "migrate", "verify", **servers)
    assert verified == f"the schema is {latest_version()}, as it should be\n"
    place = installed.run("python", "-c", "import usage_worker; print(usage_worker.__file__)")
    assert str(installed.folder.parent / "venv") in place
    installed.run("usage-worker", "publish", "-", "--draw-pairs", "2", stdin="{}\n{}\n", **servers)
    shards = json.loads(installed.run("usage-worker", "drain", "--json", **servers))
    assert sum(shard["applied"] for shard in shards) == 2


def test_installed_command_prints_its_version(installed: Installed) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert installed.run("usage-worker", "--version") == f"usage-worker {declared}\n"


@pytest.mark.parametrize("service", OURS)
def test_compose_calls_existing_commands(installed: Installed, services: dict[str, Any], service: str) -> None:
    command: list[str] = services[service]["command"]
    assert command[0] in ("usage-worker", "celery")
    if service == "flower":  # `celery flower` accepts any option; these are the ones that Flower defines
        known = installed.run("python", "-c", "import flower.options as o; print(*o.options.as_dict())").split()
        assert {option.strip("-").partition("=")[0] for option in command[4:]} <= set(known)
        command = command[:4]
    installed.run(*command, "--help", DATABASE_URL="postgresql://h/d")


def test_compose_sets_only_known_variables(services: dict[str, Any]) -> None:
    fields = Settings.model_fields.items()
    settings = {str(field.validation_alias or f"USAGE_{name.upper()}") for name, field in fields}
    for service in OURS:
        assert set(services[service]["environment"]) <= settings | FOREIGN
        assert {"DATABASE_URL", "REDIS_URL"} <= set(services[service]["environment"])


def test_compose_has_worker_for_every_queue(services: dict[str, Any]) -> None:
    commands = [services[name]["command"] for name in ("worker", "maintenance")]
    assert {option for command in commands for option in command if option.startswith("--queues")} == {
        f"--queues={name}" for name in QueueName
    }


def test_compose_gives_owner_only_to_migrations_and_maintenance(services: dict[str, Any]) -> None:
    users = {name: urlsplit(services[name]["environment"]["DATABASE_URL"]).username for name in OURS}
    owner = services["postgres"]["environment"]["POSTGRES_USER"]
    assert {name for name, user in users.items() if user == owner} == {"migrate", "maintenance"}
    assert set(users.values()) == {owner, "usage_worker"}
    for name, user in users.items():
        password = "POSTGRES_PASSWORD" if user == owner else "INGEST_PASSWORD"
        assert services[name]["environment"]["PGPASSWORD"] == f"${{{password}:-demo-only}}"


def test_compose_creates_login_role_of_workers(compose: dict[str, Any], postgres: Postgres, database: str) -> None:
    (config,) = compose["services"]["postgres"]["configs"]
    script = compose["configs"][config["source"]]["content"].replace("$$", "$")
    target = conninfo_to_dict(database)
    environment = {
        "PATH": f"{postgres.bin_dir}:{os.environ['PATH']}",
        **{f"PG{name.upper()}": str(target[name]) for name in ("host", "port", "password") if target.get(name)},
        "POSTGRES_USER": str(target["user"]),
        "POSTGRES_DB": str(target["dbname"]),
        "INGEST_PASSWORD": 'it\'s "demo" only',
    }
    try:
        subprocess.run(["sh", "-ec", script], env=environment, check=True, timeout=30)
        granted = "SELECT pg_has_role('usage_worker', 'usage_ingest', 'USAGE'), rolcanlogin, rolsuper FROM pg_roles"
        assert run(database, f"{granted} WHERE rolname = 'usage_worker'") == [(True, True, False)]
    finally:
        run(database, "DROP ROLE IF EXISTS usage_worker")


def test_compose_lets_worker_finish_its_batch(services: dict[str, Any]) -> None:
    for name in ("worker", "maintenance"):
        assert "REMAP_SIGTERM" not in services[name]["environment"]  # a warm shutdown
        assert int(services[name]["stop_grace_period"].rstrip("s")) >= SILENCE_SECONDS + 5


def test_compose_has_processes_for_all_shards_and_the_other_tasks(services: dict[str, Any]) -> None:
    shards = Settings.model_construct().stream_shards
    assert f"--concurrency={shards + 1}" in services["worker"]["command"]


def test_compose_keeps_data_checks_health_and_is_local(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "valkey", *OURS}
    for name, service in services.items():
        assert service["restart"] == ("on-failure" if name == "migrate" else "unless-stopped")
        assert name == "migrate" or "healthcheck" in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert services["beat"].get("deploy") is None  # exactly one
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert services["valkey"]["volumes"] == ["valkey:/data"]
    options = services["valkey"]["command"][-1]
    assert "--appendonly yes" in options
    assert "--maxmemory-policy noeviction" in options


def test_image_copies_existing_files_and_has_oldest_python() -> None:
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.11-slim"}
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied_files())
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied_files())
