"""The ASGI application; it opens its connections at first use, so that it works mounted, without a lifespan."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usage_worker.http import paths
from usage_worker.http.access import Access
from usage_worker.http.events import EventsEndpoint
from usage_worker.http.keys import parse_keys
from usage_worker.http.openapi import openapi
from usage_worker.http.page import PageEndpoint
from usage_worker.http.receiver import Receiver
from usage_worker.http.request_metrics import ObserverMiddleware, RequestMetrics
from usage_worker.http.usage import UsageEndpoint
from usage_worker.settings import load_settings
from usage_worker.trace_export import end_export

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from usage_worker.http.request_metrics import Observer
    from usage_worker.settings import Settings


def create_app(
    settings: Settings | None = None, *, require_keys: bool = True, observer: Observer | None = None
) -> Starlette:
    """Make the application, to be served by itself or mounted in another.

    Example:
        >>> fastapi_app.mount("/usage", create_app())

    Args:
        settings: by default from the environment; DATABASE_URL is needed for totals and charts only.
        require_keys: whether each request needs a key of USAGE_API_KEYS; otherwise only clients of this machine may
            send requests.
        observer: called at the end of each request with its ASGI scope, status and duration in seconds.

    Raises:
        SettingsError: a setting is wrong.
    """
    settings = settings or load_settings()
    access = Access(parse_keys(settings.api_keys), require_keys=require_keys)
    metrics = RequestMetrics(paths.ALL)
    receiver, usage, page = Receiver(settings), UsageEndpoint(settings, access), PageEndpoint(settings, access)

    @asynccontextmanager
    async def closing(_app: Starlette) -> AsyncIterator[None]:
        yield
        receiver.close()
        usage.close()
        end_export()
        page.close()

    routes = [
        Route(paths.PAGE, page.page, methods=["GET"]),
        Route(paths.STATUS, page.status, methods=["GET"]),
        Route(paths.EVENTS, EventsEndpoint(receiver, access, metrics).answer, methods=["POST"]),
        Route(paths.USAGE, usage.answer, methods=["GET"]),
        *_open_routes(settings, receiver, metrics),
    ]
    observers = [metrics.count_request, *([observer] if observer else [])]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(ObserverMiddleware, observers)],
        exception_handlers={HTTPException: _failed, Exception: _broken},  # type: ignore[dict-item]
        lifespan=closing,
    )
    # To a path with another slash at its end: it would name the host of the request, which may be anybody's.
    app.router.redirect_slashes = False
    return app


def _open_routes(settings: Settings, receiver: Receiver, metrics: RequestMetrics) -> list[Route]:
    """Return the routes that need no key."""

    async def document(request: Request) -> Response:
        return JSONResponse(openapi(request.scope.get("root_path", ""), any_id=settings.takes_any_id))

    health = _Health(receiver, metrics)
    return [
        Route(paths.LIVE, health.live),
        Route(paths.READY, health.ready),
        Route(paths.METRICS, health.metrics),
        Route(paths.DOCUMENT, document),
    ]


class _Health:
    """What the programs ask that run and watch the service; none of it needs a key."""

    def __init__(self, receiver: Receiver, metrics: RequestMetrics) -> None:
        self._receiver, self._metrics = receiver, metrics
        # Not those of events, which probes must not take while Redis does not answer.
        self._threads = CapacityLimiter(2)

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        if await to_thread.run_sync(self._receiver.is_ready, limiter=self._threads):
            return JSONResponse({"status": "ok"})
        return JSONResponse({"error": "Redis is not available, or nearly full"}, 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _failed(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _broken(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the log of the service has its traceback"}, 500)
