"""`usage-worker serve`: events and totals over HTTP, and a page with the status and charts."""

from __future__ import annotations

from typing import Annotated

import typer

from usage_worker.local.stopping import leave_on_signal
from usage_worker.logs import configure_logs
from usage_worker.settings import load_settings

Host = Annotated[str, typer.Option(help="Address to listen on; without USAGE_API_KEYS only one of this machine.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one, which the log names.")
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Number of processes.")]


def serve(host: Host = "127.0.0.1", port: Port = 8889, workers: Workers = 1) -> None:
    """Take events at POST /api/v1/events, answer totals at GET /api/v1/usage, and show the status and charts at /.

    It runs until Ctrl-C or SIGTERM; requests in flight are answered before it ends. Needs the extra `http`, and Redis;
    PostgreSQL for totals and charts only.
    """
    # Its packages are of an extra of their own, and take time to load.
    from usage_worker.http import serving  # noqa: PLC0415

    settings = load_settings()
    configure_logs(settings, service=True)
    with leave_on_signal():
        serving.serve(settings, host, port, workers)
