"""The paths of the service."""

from __future__ import annotations

from typing import Final

PAGE: Final = "/"
STATUS: Final = "/status.html"
EVENTS: Final = "/api/v1/events"
USAGE: Final = "/api/v1/usage"
LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"
DOCUMENT: Final = "/openapi.json"
ALL: Final = (PAGE, STATUS, EVENTS, USAGE, LIVE, READY, METRICS, DOCUMENT)
WATCHED: Final = (STATUS, LIVE, READY, METRICS)
"""Those that an open page, probes and Prometheus ask every few seconds."""
