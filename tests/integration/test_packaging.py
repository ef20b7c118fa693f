"""The container files, which no Docker engine runs here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.integration.installed import ROOT, copied_files
from usage_worker.environment import known_variables
from usage_worker.http.keys import parse_keys
from usage_worker.monitoring.checks.shards import BATCH_SECONDS
from usage_worker.service.queues import QueueName
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


OURS = ("migrate", "worker", "maintenance", "beat", "flower", "serve", "metrics", "traffic")
OTHERS = {"postgres", "valkey", "roles", "boards-role", "prometheus", "grafana"}
ONCE = {"migrate", "roles", "boards-role", "traffic"}
# What deploy/*.sql reads.
MOUNTED_SQL = {"roles": {"worker_password", "serve_password"}, "boards-role": {"boards_password"}}


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """Return the compose file, with anchors and merges resolved."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_compose_fits_its_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*check, "docker-compose.yml", "deploy/own-servers.yml"], cwd=ROOT, check=True, timeout=60)


def test_compose_sets_only_known_variables(services: dict[str, Any]) -> None:
    known = known_variables(Settings)
    for service in OURS:
        variables = set(services[service]["environment"])
        assert variables <= known
        assert {"DATABASE_URL", "REDIS_URL"} <= {name.removesuffix("_FILE") for name in variables}


def test_compose_gives_each_service_the_secrets_that_it_reads_and_no_others(compose: dict[str, Any]) -> None:
    text = {name: yaml.safe_dump(service) for name, service in compose["services"].items()}
    for name, service in compose["services"].items():
        read = set(re.findall(r"/run/secrets/([\w.]+)", text[name])) | MOUNTED_SQL.get(name, set())
        assert read == set(service.get("secrets", []))


def test_compose_has_no_password_and_says_how_to_make_them(compose: dict[str, Any]) -> None:
    first, *others = (secret["file"].rpartition("/")[0] for secret in compose["secrets"].values())
    assert first == "${USAGE_SECRETS:?run deploy/new-secrets secrets, and the export that it prints}"
    assert set(others) == {"${USAGE_SECRETS:-}"}


def test_new_secrets_are_those_of_compose_and_random(compose: dict[str, Any], tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        subprocess.run([ROOT / "deploy" / "new-secrets", folder], check=True, stdout=subprocess.DEVNULL, timeout=30)
        assert {path.name for path in folder.iterdir()} == set(compose["secrets"])
        assert folder.stat().st_mode & 0o077 == 0
        assert len(parse_keys((folder / "api_keys").read_text().strip())) == 2
    for name in compose["secrets"]:
        assert (folders[0] / name).read_text() != (folders[1] / name).read_text()


def test_export_line_of_new_secrets_names_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / """it's "$HOME" `a` \\b"""
    new = [ROOT / "deploy" / "new-secrets", folder]
    lines = subprocess.run(new, check=True, capture_output=True, text=True, timeout=30).stdout
    shell = ["sh", "-euc", f'{lines}\nprintf %s "$USAGE_SECRETS"']
    assert subprocess.run(shell, check=True, capture_output=True, text=True, timeout=30).stdout == str(folder)


def test_new_secrets_name_the_servers_of_compose(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy" / "new-secrets", folder], check=True, stdout=subprocess.DEVNULL, timeout=30)
    urls = [urlsplit((folder / f"{name}_url").read_text()) for name in ("owner", "worker", "serve", "redis")]
    assert [url.hostname for url in urls] == ["postgres", "postgres", "postgres", "valkey"]


def test_compose_has_worker_for_every_queue(services: dict[str, Any]) -> None:
    commands = [services[name]["command"] for name in ("worker", "maintenance")]
    assert {option for command in commands for option in command if option.startswith("--queues")} == {
        f"--queues={name}" for name in QueueName
    }


def test_compose_gives_owner_only_to_migrations_and_maintenance(services: dict[str, Any]) -> None:
    assert {name for name in OURS if "owner_url" in services[name]["secrets"]} == {"migrate", "maintenance"}


def test_compose_starts_with_servers_elsewhere(services: dict[str, Any]) -> None:
    override = yaml.safe_load((ROOT / "deploy" / "own-servers.yml").read_text("utf-8"))["services"]
    assert override == {name: {"profiles": ["unused"]} for name in ("postgres", "valkey")}
    for name in services.keys() - override.keys():
        waits = services[name].get("depends_on", {})
        assert all(waits[server].get("required") is False for server in waits.keys() & override.keys()), name
        assert not re.search(r"postgres|valkey", str(services[name].get("command"))), name


def test_compose_lets_worker_finish_its_batch(services: dict[str, Any]) -> None:
    for name in ("worker", "maintenance"):
        assert "REMAP_SIGTERM" not in services[name]["environment"]  # a warm shutdown
        assert int(services[name]["stop_grace_period"].rstrip("s")) >= BATCH_SECONDS + 5


def test_compose_has_processes_for_all_shards_and_the_other_tasks(services: dict[str, Any]) -> None:
    shards = Settings.model_construct().stream_shards
    assert f"--concurrency={shards + 1}" in services["worker"]["command"]


def test_compose_keeps_data_checks_health_and_is_local(services: dict[str, Any]) -> None:
    assert set(services) == {*OTHERS, *OURS}
    for name, service in services.items():
        assert (service["restart"] == "unless-stopped") == (name not in ONCE)
        assert name in ONCE or service["healthcheck"]["test"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any("replicas" in service["deploy"] for service in services.values())  # beat: exactly one
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert services["valkey"]["volumes"] == ["valkey:/data"]
    assert {"--appendonly yes", "--maxmemory-policy noeviction"} <= set(services["valkey"]["command"])


def test_compose_limits_every_service(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert service["logging"]["options"]["max-size"]


def test_image_copies_existing_files_and_has_oldest_python() -> None:
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.11-slim"}
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied_files())
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied_files())
