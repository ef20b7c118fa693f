"""The paths of the service."""

from __future__ import annotations

from typing import Final

EVENTS: Final = "/api/v1/events"
USAGE: Final = "/api/v1/usage"
LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"
DOCUMENT: Final = "/openapi.json"
ALL: Final = (EVENTS, USAGE, LIVE, READY, METRICS, DOCUMENT)
WATCHED: Final = (LIVE, READY, METRICS)
"""Those that probes and Prometheus ask every few seconds."""
