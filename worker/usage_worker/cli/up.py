"""`usage-worker up`: the whole system in one terminal, on given or embedded servers."""

from __future__ import annotations

import os
import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.output import echo
from usage_worker.errors import SettingsError
from usage_worker.local.servers import Servers
from usage_worker.local.stopping import leave_on_signal
from usage_worker.local.supervisor import FLOWER, LOCALHOST, Supervisor
from usage_worker.logs import configure_logs
from usage_worker.migrate import Runner, latest_version
from usage_worker.service.broker import broker_of
from usage_worker.service.broker_server import leave_unusable_broker
from usage_worker.service.server_check import leave_unusable_server
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from usage_worker.local.stopping import StopFlag
    from usage_worker.settings import Settings

ROOT_DATA_DIR = Path("/var/lib/usage-worker")
POLL_INTERVAL = 0.5
# At "info", the start alone is 20 lines between those below.
LOG_LEVEL = "warning"

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the embedded servers' data."
        " [default: /var/lib/usage-worker for root, otherwise the user's data folder]"
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(min=1, help="Number of processes of the worker that counts.", show_default="USAGE_STREAM_SHARDS + 1"),
]
FlowerPort = Annotated[
    int,
    typer.Option(
        min=0,
        max=65535,
        envvar="FLOWER_PORT",
        show_envvar=False,
        help="Port of Flower on 127.0.0.1; 0 takes a free one. FLOWER_PORT sets it as well.",
    ),
]


def up(data_dir: DataDir = None, concurrency: Concurrency = None, flower_port: FlowerPort = 5555) -> None:
    """Run everything until Ctrl-C: servers, schema, worker, beat and Flower.

    DATABASE_URL and USAGE_REDIS_URL, or REDIS_URL, name the servers to use; where one is not set, an embedded server
    starts and keeps its data. USAGE_BROKER_URL may name another server for Celery's messages. In an embedded PostgreSQL
    unknown users and agents are created, unless USAGE_UNKNOWN is set. Only warnings and errors are logged, unless
    USAGE_LOG_LEVEL is set. Flower's own variables, such as FLOWER_BASIC_AUTH, reach Flower.
    """
    settings = _settings()
    broker_of(settings)  # a wrong one stops nothing that was started
    configure_logs(settings, service=True)
    _require_free(flower_port)
    folder = (data_dir or _default_data_dir()).expanduser().absolute()
    _require_writable(folder)
    with leave_on_signal() as stop, Servers(settings, folder) as servers:
        leave_unusable_server(servers.redis_url, settings.redis_master)
        leave_unusable_broker(settings)
        _echo("Redis", "keeps events until they are counted", settings.mask(servers.redis_url))
        if settings.has_own_broker:
            _echo("broker", "carries Celery's messages", settings.mask(settings.broker_url))
        Runner(servers.database_url).up()
        _echo("PostgreSQL", f"keeps the counters, schema {latest_version()}", settings.mask(servers.database_url))
        exports = _exports(servers, settings)
        with Supervisor(
            servers.database_url,
            servers.redis_url,
            broker_url=settings.broker_url,
            concurrency=concurrency,
            flower_port=flower_port,
            state_dir=folder,
            variables=exports | {"USAGE_LOG_LEVEL": settings.log_level},
        ) as supervisor:
            _announce(supervisor, exports)
            _watch(servers, supervisor, stop)


def _settings() -> Settings:
    settings = load_settings()
    if "log_level" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"log_level": LOG_LEVEL})


def _watch(servers: Servers, supervisor: Supervisor, stop: StopFlag) -> None:
    while not stop.is_set:
        servers.poll()
        supervisor.poll()
        time.sleep(POLL_INTERVAL)


def _announce(supervisor: Supervisor, exports: dict[str, str]) -> None:
    """Print the processes, wait until they are ready, and print what another terminal needs."""
    for name, pid in supervisor.pids.items():
        address = supervisor.flower_url if name == FLOWER else None
        _echo(name, supervisor.purposes[name], address or f"process {pid}")
    supervisor.wait_ready()
    for name, value in exports.items():
        echo(f"export {name}={shlex.quote(value)}")
    echo("ready; Ctrl-C stops everything")


def _exports(servers: Servers, settings: Settings) -> dict[str, str]:
    """Return the environment variables that lead other processes to the embedded servers.

    Such a database has no users and agents at first, so by default the first event of each creates it.
    """
    if "DATABASE_URL" not in servers.exports:
        return servers.exports
    unknown = settings.unknown if "unknown" in settings.model_fields_set else "create"
    return servers.exports | {"USAGE_UNKNOWN": unknown}


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return ROOT_DATA_DIR  # root's servers run under an account that cannot enter /root
    try:
        from platformdirs import user_data_path  # noqa: PLC0415 - of the extra `embedded`
    except ImportError:
        raise SettingsError("give --data-dir, or run pip install 'usage-worker[embedded]'") from None
    return user_data_path("usage-worker")


def _require_free(port: int) -> None:
    """Check the port before anything starts; Flower is the last to start.

    Raises:
        SettingsError: Flower cannot listen on the port.
    """
    try:
        socket.create_server((LOCALHOST, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SettingsError(
            f"Flower cannot listen on port {port} ({reason}); set --flower-port to another, or to 0 for any free port"
        ) from None


def _require_writable(folder: Path) -> None:
    """Check the data folder before anything starts; beat's schedule is the last to need it.

    Raises:
        SettingsError: it is not a folder that we may write, or cannot be created.
    """
    found = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (found.is_dir() and os.access(found, os.W_OK | os.X_OK)):
        raise SettingsError(f"{found} cannot be the data folder; set --data-dir")


def _echo(name: str, purpose: str, place: str) -> None:
    echo(f"{name:<11}  {purpose:<35}  {place}")
