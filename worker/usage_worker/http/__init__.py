"""The service: events and totals over HTTP, as an ASGI application of its own or mounted in another."""

from usage_worker.errors import needs_extra

with needs_extra("http"):
    from usage_worker.http.app import create_app

__all__ = ["create_app"]
