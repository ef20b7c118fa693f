"""The compose file on the image of the Dockerfile, without a container engine; a part of `make test-more`, as root.

Each service runs with its command, environment, secrets, user, mounts and rights, in a root that the Dockerfile's steps
made of an empty Debian, and URLs of a user's own servers; then its health check must pass, and fail once it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from pwd import getpwnam
from typing import TYPE_CHECKING

import pytest

from tests.helpers import eventually
from tests.integration.installed import ROOT
from tests.system.containers import Containers, read_compose
from tests.system.image import Image, build_image
from usage_worker.local.account import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

# Debian has no Grafana; the files of both are tested with the boards.
NOT_RUN = {"prometheus", "grafana"}
SERVERS = ("postgres", "valkey")
ONCE = ("migrate", "roles", "boards-role")
COUNTING = ("worker", "maintenance", "beat", "flower", "serve", "metrics")
TRAFFIC = "traffic"
# What docs/deploy.md tells to run on a machine without containers, with another password.
LOGIN_ROLES = """
    cp -r /run/secrets /tmp/folder && rm -f /tmp/folder/worker_password && echo another >/tmp/folder/worker_password
    USAGE_SECRETS=/tmp/folder psql -X -q -f /deploy/roles.sql "$(cat /tmp/folder/owner_url)"
    PGPASSWORD=another psql -X -q -h localhost -U usage_worker -c "SELECT" yours"""
PROGRAMS = {"valkey-server": "redis-server", "valkey-cli": "redis-cli"}


def servers_of_this_machine(folder: Path) -> Image:
    """Return a root for this machine's programs, which stand for the images of PostgreSQL and Valkey."""
    for name in ("proc", "dev", "run", "tmp", "usr", "etc", "var", "data", "var/lib/postgresql", "programs"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "var" / "run").symlink_to("../run")
    for name, program in PROGRAMS.items():
        (folder / "programs" / name).symlink_to(f"/usr/bin/{program}")
    programs = min(Path("/usr/lib/postgresql").glob("*/bin"))
    path = f"/programs:{programs}:/usr/sbin:/usr/bin:/sbin:/bin"
    return Image(folder, {"PATH": path, "PGDATA": "/var/lib/postgresql/data"}, "/", "root")


def make_volumes(folder: Path, image: Image) -> None:
    """Make empty volumes, each with the owner that its folder has in the image."""
    owners = {"postgres": getpwnam("postgres").pw_uid, "valkey": getpwnam("redis").pw_uid}
    owners["beat"] = (image.root / "var/lib/usage-worker").stat().st_uid
    for name, owner in owners.items():
        (folder / name).mkdir()
        os.chown(folder / name, owner, -1)


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    # Accounts of servers cannot enter the folders of pytest, as they cannot those of root.
    with temporary_folder() as folder:
        secrets = folder / "secrets"
        subprocess.run([ROOT / "deploy" / "new-secrets", secrets], check=True, stdout=subprocess.DEVNULL)
        name_other_servers(secrets)
        compose = read_compose({"USAGE_SECRETS": str(secrets), "USAGE_UNKNOWN": "create"})
        image = build_image(folder)
        make_volumes(folder, image)
        with Containers(compose, image, servers_of_this_machine(folder / "servers"), folder) as containers:
            yield containers


def name_other_servers(secrets: Path) -> None:
    """Let the URLs name servers and databases as a user's own: whatever still names those of compose fails."""
    for name in ("owner_url", "worker_url", "serve_url", "redis_url"):
        file = secrets / name
        other = file.read_text().replace("@postgres:5432/usage", "@localhost:5432/yours")
        file.write_text(other.replace("@valkey:6379/0", "@localhost:6379/1"))


def start_healthy(containers: Containers, *names: str) -> None:
    for name in names:
        containers.start(name)
    for name in names:
        eventually(partial(containers.is_healthy, name), 60)


def test_every_service_is_run_or_named_as_not_run() -> None:
    services = read_compose({"USAGE_SECRETS": "secrets"})["services"]
    assert sorted((*SERVERS, *ONCE, *COUNTING, TRAFFIC, *NOT_RUN)) == sorted(services)


def test_services_run_and_their_health_checks_tell(containers: Containers) -> None:
    initdb = "initdb --encoding=UTF8 --username=usage --pwfile=/run/secrets/owner_password --auth-host=scram-sha-256"
    run_once(containers, "postgres", ["sh", "-c", initdb])
    start_healthy(containers, *SERVERS)
    create = "PGPASSWORD=$(cat /run/secrets/owner_password) createdb -h postgres -U usage yours"
    run_once(containers, "postgres", ["sh", "-c", create])
    for name in ONCE:
        run_once(containers, name)
    run_once(containers, "roles", ["sh", "-ec", LOGIN_ROLES])
    for name in ("roles", "boards-role"):  # at each start
        run_once(containers, name)
    start_healthy(containers, *COUNTING)
    containers.start(TRAFFIC)
    eventually(partial(is_counted, containers), 60)
    containers.stop(TRAFFIC)
    for name in COUNTING:
        assert containers.stop(name) == 0, containers.log(name)
        assert not containers.is_healthy(name)


def run_once(containers: Containers, name: str, command: list[str] | None = None) -> None:
    done = containers.run(name, command)
    assert done.returncode == 0, done.stdout + done.stderr


def is_counted(containers: Containers) -> bool:
    status = json.loads(containers.run("worker", ["usage-worker", "status", "--json"]).stdout)
    return bool(status["totals"] and status["totals"]["applied"])
