"""Traces of real processes: an application, `usage-worker serve` and workers export to a collector of the test."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
from celery import Celery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.faults.harness import Harness
from tests.helpers import broker_url, environment_without, eventually
from tests.integration.service import complete_lines, serving
from usage_worker.local.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Valkey

HOSTILE = ["x" * 200_000, "00-1-2-01\n", "00-" + "g" * 32 + "-" + "h" * 16 + "-01", b"\xff\xfe", ""]
ASK = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from usage_worker import UsagePublisher

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with UsagePublisher() as usage, trace.get_tracer("app").start_as_current_span("POST /ask"):
    for event in json.load(sys.stdin):
        assert usage.add(event)
provider.shutdown()
"""


class Sent(NamedTuple):
    """A span, and the name of the service that has sent it."""

    service: str
    span: Exported

    @property
    def attributes(self) -> dict[str, Any]:
        return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in self.span.attributes}


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent: list[Sent] = []
        self.bodies: list[bytes] = []

    def __getitem__(self, name: str) -> list[Sent]:
        return [it for it in self.sent if it.span.name == name]

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = [it.value.string_value for it in resource.resource.attributes if it.key == "service.name"]
            self.sent += [Sent(names[0], span) for scope in resource.scope_spans for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.take(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def collecting() -> Iterator[tuple[Collector, dict[str, str]]]:
    """Run a collector; yield it with the variables that send spans there, at the end of a process only."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{collector.server_port}"
        try:
            yield collector, {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        finally:
            collector.shutdown()
            thread.join()


def traceparent() -> str:
    return f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"


def span_id(text: str) -> bytes:
    return bytes.fromhex(text.split("-")[2])


def test_trace_leads_from_the_request_to_the_transaction(database: str, valkey: Valkey, tmp_path: Path) -> None:
    of_request, of_message = traceparent(), traceparent()
    with (
        collecting() as (collector, variables),
        closing(Harness(database, valkey.url())) as harness,
        pytest.MonkeyPatch.context() as patch,
    ):
        harness.redis.flushdb()
        for name, value in (harness.env | variables | {"USAGE_LOG_FORMAT": "json"}).items():
            patch.setenv(name, value)
        asked, posted, sent, others = (harness.traffic(count, seed=count) for count in (7, 5, 3, len(HOSTILE)))
        with Supervisor(harness.database, harness.redis_url, flower_port=None, log_dir=tmp_path) as stack:
            stack.wait_ready(180)
            subprocess.run(
                [sys.executable, "-c", ASK],
                env=environment_without() | {"USAGE_REDIS_URL": harness.redis_url, "OTEL_SERVICE_NAME": "app"},
                input=json.dumps(asked, default=str).encode(),
                check=True,
                timeout=60,
            )
            with serving(tmp_path, harness.redis_url, **variables) as service:
                body = json.loads(json.dumps(posted, default=str))
                assert service.post(body, traceparent=of_request).status == 202
            with closing(Celery(broker=broker_url(harness.redis_url))) as sender:
                headers: Any
                for event, headers in zip(sent, [of_message, "x" * 200_000, {"a": ["b"]}], strict=True):
                    sender.send_task("usage.track", kwargs=event, headers={"traceparent": headers})
            for event, hostile in zip(others, HOSTILE, strict=True):
                harness.xadd([event], 0, traceparent=hostile)  # type: ignore[arg-type]
            harness.record([*asked, *posted, *sent])
            eventually(lambda: harness.has_counted(harness.sent), 60)
            harness.check()
    check_publishing(collector, span_id(of_request), span_id(of_message))
    check_counting(collector, harness.sent)
    check_lines(collector, tmp_path)
    for event in (*asked, *posted, *sent, *others):
        for value in (event["user_id"], event["agent_id"], event["event_id"]):
            assert not any(str(value).encode() in it or value.hex.encode() in it for it in collector.bodies)


def check_publishing(collector: Collector, of_request: bytes, of_message: bytes) -> None:
    (ask,) = collector["POST /ask"]
    published = collector["usage.publish"]
    assert {it.service for it in published} == {"app", "usage-worker"}
    by_application = [it.span for it in published if it.service == "app"]
    assert [[link.span_id for link in span.links] for span in by_application] == [[ask.span.span_id]] * len(
        by_application
    )
    assert {of_request, of_message} <= {it.span.parent_span_id for it in published}
    assert all(it.span.kind == Exported.SPAN_KIND_PRODUCER for it in published)


def check_counting(collector: Collector, events: int) -> None:
    flushes = collector["usage.flush"]
    # The first attempt finds pairs that have no row yet.
    transactions = [it for it in collector["usage.transaction"] if it.span.status.code != Status.STATUS_CODE_ERROR]
    assert {it.service for it in (*transactions, *flushes)} == {"usage-worker"}
    links = [link.span_id for it in transactions for link in it.span.links]
    assert sorted(links) == sorted(it.span.span_id for it in collector["usage.publish"])
    assert {it.span.parent_span_id for it in transactions} == {it.span.span_id for it in flushes}
    assert sum(it.attributes["usage.events"] for it in transactions) == events
    assert {it.attributes["messaging.destination.partition.id"] for it in flushes} == {"0", "1"}
    assert all(it.span.kind == Exported.SPAN_KIND_CONSUMER for it in flushes)


def check_lines(collector: Collector, folder: Path) -> None:
    lines = [line for line in complete_lines(folder / "worker1.log") if line["event"] == "flushed"]
    flushes = {(it.span.trace_id.hex(), it.span.span_id.hex()) for it in collector["usage.flush"]}
    assert {(line["trace_id"], line["span_id"]) for line in lines} == flushes


def test_collector_that_is_away_delays_no_worker(database: str, valkey: Valkey, tmp_path: Path) -> None:
    """The exporter would try for ten seconds at the end of each process."""
    with closing(Harness(database, valkey.url())) as harness, pytest.MonkeyPatch.context() as patch:
        harness.redis.flushdb()
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "otlp,lost"}
        for name, value in (harness.env | variables | {"USAGE_LOG_FORMAT": "json"}).items():
            patch.setenv(name, value)
        with Supervisor(harness.database, harness.redis_url, flower_port=None, log_dir=tmp_path) as stack:
            stack.wait_ready(180)
            harness.publish(harness.traffic(50))
            eventually(lambda: harness.has_counted(harness.sent), 60)
            harness.check()
    lines = complete_lines(tmp_path / "worker1.log")
    assert lines[-1]["event"] == "the worker has stopped"
    told = [line for line in lines if line["event"] == "no traces are exported"]
    assert [line["reason"] for line in told] == ["no package has the exporter lost"]
