"""The service as processes of its own: uvicorn, in front of the application."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from contextlib import asynccontextmanager
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess

from usage_worker.errors import ArgumentError, SettingsError
from usage_worker.http.app import create_app
from usage_worker.http.keys import parse_keys
from usage_worker.http.paths import WATCHED
from usage_worker.http.request_metrics import SHARED
from usage_worker.logs import configure_logs, get_logger
from usage_worker.loopback import is_loopback
from usage_worker.settings import load_settings
from usage_worker.trace_export import begin_export, check_export, end_export

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.process import BaseProcess

    from starlette.applications import Starlette
    from starlette.types import Scope

    from usage_worker.settings import Settings

# How long requests in flight may take after a signal: Redis has 5 s for each answer.
DRAIN_SECONDS = 30
_BACKLOG = 2_048
_METRICS = "usage-worker-metrics-"
log = get_logger("http")


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are answered then.

    Raises:
        SettingsError: no key is set and others could connect, or nothing can listen there.
    """
    if not parse_keys(settings.api_keys) and not is_loopback(host):
        raise SettingsError(
            "USAGE_API_KEYS is not set, so only --host 127.0.0.1 is possible; make a key with usage-worker new-key"
        )
    config = uvicorn.Config(
        f"{__name__}:application",
        factory=True,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    with listening(host, port) as listener:
        check_export()
        log.info("listening", host=host, port=listener.getsockname()[1], workers=workers)
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listener])
            return
        with TemporaryDirectory(prefix=_METRICS) as folder:
            os.environ[SHARED] = folder
            Multiprocess(config, sockets=[listener]).run()


def application() -> Starlette:
    """Return the application of one process; uvicorn calls it."""
    settings = load_settings()
    configure_logs(settings, service=True)
    if parent := parent_process():
        threading.Thread(target=_follow, args=[parent], name="usage-parent", daemon=True).start()
    app = create_app(settings, require_keys=bool(settings.api_keys), observer=_log_request)
    closing = app.router.lifespan_context

    @asynccontextmanager
    async def exporting(app: Starlette) -> AsyncIterator[None]:
        begin_export()
        async with closing(app):
            yield
        # Here, as uvicorn ends the process by the signal that it got, without what `atexit` knows.
        end_export()

    app.router.lifespan_context = exporting
    return app


def _follow(parent: BaseProcess) -> None:
    """End this process after its parent: one that was killed could not end it, and the port would stay taken.

    Nor could it remove the folder of the metrics.
    """
    parent.join()
    folder = Path(os.environ.get(SHARED, ""))
    if folder.name.startswith(_METRICS):
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        ArgumentError: nothing can.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, TypeError) as error:  # TypeError: the host cannot be encoded
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"--host {host} --port {port}: {reason}") from None
    # asyncio sends at once (TCP_NODELAY) only where the socket says TCP: without, an answer took 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listener.detach())


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """Log a request: neither its query, which has ids of users, nor its headers, which have a key."""
    # Whoever watches the service asks every few seconds.
    write = log.debug if scope["path"].endswith(WATCHED) else log.info
    client, key = scope.get("client"), scope.get("state", {}).get("key")
    write(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        milliseconds=round(1000 * seconds, 1),
        client=client[0] if client else None,
        key=key,
    )
