"""The metrics of the service, and the middleware that takes them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Observer = Callable[[Scope, int, float], None]

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client for the folder in which the processes of a service share their figures."""


class RequestMetrics:
    """The metrics of one process, or of all of a service that share a folder.

    `paths` are those that the metrics name; a label for each path that somebody has tried would be endless.
    """

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = paths
        self.registry = CollectorRegistry()
        text, labels = "Requests answered.", ["path", "status"]
        self._requests = Counter("usage_http_requests", text, labels, registry=self.registry)
        text = "Time from a request's headers to the end of its answer."
        self._seconds = Histogram("usage_http_request_seconds", text, ["path"], registry=self.registry)
        text = "Events that clients sent, by whether Redis has them (accepted, refused)."
        self._events = Counter("usage_http_events", text, ["outcome"], registry=self.registry)

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        label = path if path in self._paths else "other"
        self._requests.labels(label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)

    def count_events(self, accepted: int, refused: int) -> None:
        """Count the events of a request."""
        self._events.labels("accepted").inc(accepted)
        self._events.labels("refused").inc(refused)

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class ObserverMiddleware:
    """Middleware that calls observers at the end of each request with its scope, status and duration in seconds."""

    def __init__(self, app: ASGIApp, observers: list[Observer]) -> None:
        self._app, self._observers = app, observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            for observe in self._observers:
                observe(scope, status, time.perf_counter() - started)
