"""What our own processes export, as the variables of OpenTelemetry say, and the ids of spans in their log lines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers import environment_without

EXPORT = """
from usage_worker.logs import configure_from_environment
from usage_worker.trace_export import begin_export, check_export, end_export
configure_from_environment()
check_export()
begin_export()
end_export()
"""


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "jaeger", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ""),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "no package has the exporter jaeger"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "1"}, "ValueError: max_export_batch_size"),
    ],
)
def test_exporter_that_cannot_be_made_is_one_line(variables: dict[str, str], reason: str) -> None:
    """And none where the variables say that nothing is to be exported."""
    env = environment_without("USAGE_", "OTEL_") | variables
    done = subprocess.run([sys.executable, "-c", EXPORT], env=env, capture_output=True, check=True, timeout=30)
    assert done.stderr.count(b"\n") == bool(reason), done.stderr
    assert reason in done.stderr.decode()


ENDING = """
import atexit, threading
from usage_worker.trace_export import begin_export
from usage_worker.tracing import in_span
begin_export()
atexit.register(setattr, threading.Thread, "start", None)  # as of Python 3.12: it runs before what began earlier
with in_span("the last one", "INTERNAL", {}):
    pass
"""


def test_process_that_ends_by_itself_sends_what_is_left() -> None:
    """As a worker with the pool `solo` does; Python 3.12 starts no thread at that time."""
    env = environment_without("USAGE_", "OTEL_") | {"OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run([sys.executable, "-c", ENDING], env=env, capture_output=True, check=True, timeout=30)
    assert b"the last one" in done.stdout
    assert done.stderr == b""


MOUNTED = """
import asyncio
from usage_worker.http.app import create_app
from usage_worker.trace_export import begin_export, end_export
from usage_worker.tracing import in_span

async def run(app):
    async with app.router.lifespan_context(app):
        pass

begin_export()
asyncio.run(run(create_app()))
with in_span("after the mounted application", "INTERNAL", {}):
    pass
end_export()
"""


def test_mounted_application_leaves_the_export_to_its_process() -> None:
    env = environment_without("USAGE_", "OTEL_") | {"OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run([sys.executable, "-c", MOUNTED], env=env, capture_output=True, check=True, timeout=30)
    assert b"after the mounted application" in done.stdout, done.stderr


LOG = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from usage_worker.logs import configure_logs, get_logger
from usage_worker.settings import load_settings
from usage_worker.tracing import in_span
trace.set_tracer_provider(TracerProvider())
configure_logs(load_settings(), service=True)
import logging
get_logger("ours").info("outside")
with in_span("usage.flush", "CONSUMER", {}) as span:
    get_logger("ours").info("inside")
    logging.getLogger("library").warning("of a library")
    context = span.get_span_context()
print(f"{context.trace_id:032x} {context.span_id:016x}", file=sys.__stdout__) if (sys := __import__("sys")) else None
"""


def logged(log_format: str) -> tuple[list[str], str, str]:
    env = environment_without("USAGE_", "OTEL_") | {"USAGE_LOG_FORMAT": log_format}
    done = subprocess.run([sys.executable, "-c", LOG], env=env, capture_output=True, check=True, timeout=30)
    *lines, ids = (done.stderr + done.stdout).decode().splitlines()
    return lines, *(json.loads(ids)["event"] if ids.startswith("{") else ids).split()


def test_lines_in_a_span_carry_its_ids() -> None:
    lines, trace_id, span_id = logged("json")
    outside, *inside = map(json.loads, lines)
    assert not {"trace_id", "span_id"} & outside.keys()
    assert [(it["trace_id"], it["span_id"]) for it in inside] == [(trace_id, span_id)] * 2


def test_lines_for_people_carry_them_too() -> None:
    lines, trace_id, span_id = logged("console")
    assert [f"trace_id={trace_id}" in line and f"span_id={span_id}" in line for line in lines] == [False, True, True]
