"""The SDK of OpenTelemetry in our own processes, as the variables OTEL_* of its specification configure it.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. An application has its own.
"""

from __future__ import annotations

import atexit
import os
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from usage_worker.errors import named
from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from opentelemetry.sdk.trace import TracerProvider

# One of them asks for traces.
_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP_HTTP = "otlp_proto_http"
# At the end of a process: a collector that does not answer has 10 s for each request.
_SHUTDOWN_SECONDS = 3.0
# What ends the provider that this process has made, if any, and the thread that waits for it.
_made: list[tuple[threading.Event, threading.Thread]] = []

log = get_logger("traces")


def check_export() -> None:
    """Log what to install where the environment asks for traces that nothing here exports."""
    for name, exporter in _exporters().items():
        if exporter is None:
            what = "pip install 'usage-worker[otel]'" if name == _OTLP_HTTP else f"no package has the exporter {name}"
            log.warning("no traces are exported", variable=next(filter(os.environ.get, _VARIABLES)), reason=what)


def begin_export() -> None:
    """Export the spans of this process, if the environment asks for it and nothing else has made a tracer provider.

    A thread sends them, so a process that forks leaves it to its children.
    """
    exporters = [exporter for exporter in _exporters().values() if exporter]
    if not exporters:
        return
    try:
        _make_provider(exporters)
    except Exception as error:  # noqa: BLE001 - a variable that is wrong for the SDK must not keep events from counting
        log.warning("no traces are exported", reason=named(error))


def end_export() -> None:
    """Send the spans that are left, for a few seconds."""
    while _made:
        is_over, thread = _made.pop()
        is_over.set()
        thread.join(_SHUTDOWN_SECONDS)


def _exporters() -> dict[str, EntryPoint | None]:
    """Return the exporters that the environment names, each None where it is not installed; usually nothing."""
    if not any(map(os.environ.get, _VARIABLES)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return {}
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), "http/protobuf")
    names = [name.strip() for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    names = [f"otlp_proto_{protocol.partition('/')[0]}" if name == "otlp" else name for name in names]
    found = {point.name: point for point in entry_points(group="opentelemetry_traces_exporter")}
    return {name: found.get(name) for name in names if name not in {"none", ""}}


def _make_provider(exporters: list[EntryPoint]) -> None:
    from opentelemetry import trace  # noqa: PLC0415 - belongs to the extra `otel`, and takes a tenth of a second
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    service = OTELResourceDetector().detect().attributes.get(SERVICE_NAME, "usage-worker")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    trace.set_tracer_provider(provider)
    is_over = threading.Event()
    # Begins now: from Python 3.12 on, no thread begins at the exit of a process.
    thread = threading.Thread(target=_end, args=[provider, is_over], name="usage-traces", daemon=True)
    thread.start()
    _made.append((is_over, thread))
    atexit.register(end_export)


def _end(provider: TracerProvider, is_over: threading.Event) -> None:
    is_over.wait()
    provider.shutdown()
