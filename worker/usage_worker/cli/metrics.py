"""`usage-worker metrics`: metrics in the format of Prometheus."""

from __future__ import annotations

import signal
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from prometheus_client import generate_latest, start_http_server

from usage_worker.cli.output import echo, write
from usage_worker.errors import SettingsError
from usage_worker.local.stopping import leave_on_signal
from usage_worker.monitoring.background import BackgroundStatus, collected
from usage_worker.monitoring.metrics import registry
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from usage_worker.settings import Settings

# A scrape in the first moment waits so long for the first status: half of Prometheus' usual scrape_timeout.
FIRST_SECONDS = 5.0

Port = Annotated[
    int | None,
    typer.Option(
        min=1, max=65535, help="Serve the metrics at http://ADDRESS:PORT/metrics until Ctrl-C.", show_default=False
    ),
]
Address = Annotated[str, typer.Option(help="Address to listen on.")]


def metrics(port: Port = None, address: Address = "127.0.0.1") -> None:
    """Print checks, backlog, totals, processes, partitions and tasks as Prometheus metrics, or serve them."""
    settings = load_settings()
    if port is not None:
        # As the first process of a container, it would otherwise ignore SIGTERM until it serves.
        with leave_on_signal():
            _serve(settings, address, port)
        return
    write(generate_latest(registry(partial(collected, settings))).decode())


def _serve(settings: Settings, address: str, port: int) -> None:
    background = BackgroundStatus(settings)
    try:
        made = registry(partial(background.wait, FIRST_SECONDS))
        server, thread = start_http_server(port, address, made)
    except (OSError, UnicodeError) as error:  # the latter for an invalid name of a host
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"--address {address} --port {port}: {reason}") from None
    try:
        echo(f"http://{address}:{port}/metrics", err=True)
        with closing(background.start()):
            signal.pause()
    finally:
        server.shutdown()
        thread.join()
