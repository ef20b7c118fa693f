"""A hostile `traceparent`, a broken tracer and a process without OpenTelemetry cost no event."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, use_span

from tests.unit.spans import GOOD, PACK, Spans, entry, publish
from usage_worker.ingest.transaction_span import intake_attributes, transaction_span
from usage_worker.store.intake import Intake
from usage_worker.tracing import (
    continued,
    end_span,
    in_span,
    link_senders,
    note_figures,
    read_traceparent,
    span_ids,
    start_span,
    traceparent_field,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HOSTILE = [
    b"",
    b"x",
    b"0" * 200_000,
    GOOD + b"-" + b"0" * 200_000,
    GOOD + b"\n",
    b"\n" + GOOD,
    GOOD + b"-00",
    GOOD.upper(),
    GOOD.replace(b"b", b"g"),
    GOOD.replace(b"00-", b"ff-", 1),
    b"00-" + b"0" * 32 + GOOD[35:],
    GOOD[:36] + b"0" * 16 + b"-01",
    b"\xff\xfe" + GOOD,
    GOOD.replace(b"-", b"\xe2\x80\x91"),
    None,
    7,
    ["00"],
    {"a": "b"},
    "\ud800",
    "\uff10\uff10" + GOOD[2:].decode(),
]


@pytest.mark.parametrize("traceparent", HOSTILE, ids=lambda it: repr(it)[:30])
def test_what_is_no_traceparent_is_ignored(spans: Spans, traceparent: object) -> None:
    assert read_traceparent(traceparent) is None
    with continued(traceparent):
        publish((0, "usage:events:{0}", PACK))
    with transaction_span([entry(traceparent), entry(GOOD)]):
        pass
    assert spans["usage.publish"][0].parent is None
    assert [link.context.span_id for link in spans["usage.transaction"][0].links] == [0xB7AD6B7169203331]


@given(st.one_of(st.binary(), st.text(), st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")))
def test_any_text_is_read(text: bytes | str) -> None:
    context = read_traceparent(text)
    assert context is None or context.is_valid


class Broken(Sampler):
    """A sampler with a bug, or a span processor's: the SDK contains neither."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise RuntimeError("a bug")

    def get_description(self) -> str:
        return "broken"


def test_broken_tracer_costs_no_event(use: Callable[..., Spans]) -> None:
    use(Broken())
    (fields,) = publish((0, "s", PACK))
    assert fields == PACK.fields()
    with transaction_span([entry(GOOD)]) as span:
        note_figures(span, intake_attributes(Intake()))


class BrokenSpan(NonRecordingSpan):
    def get_span_context(self) -> SpanContext:
        raise RuntimeError("a bug")


def test_broken_span_costs_no_event() -> None:
    with use_span(BrokenSpan(INVALID_SPAN_CONTEXT)):
        assert span_ids() == {}
        assert publish_alone() == PACK.fields()
        with continued(GOOD):
            assert publish_alone()["traceparent"] == GOOD.decode()


def publish_alone() -> Any:
    (fields,) = publish((0, "s", PACK))
    return fields


def test_broken_processor_costs_no_event(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(spans.exporter, "export", fail)
    monkeypatch.setattr(spans.provider._active_span_processor, "on_end", fail)
    (fields,) = publish((0, "s", PACK))
    assert "traceparent" in fields


def test_nothing_happens_where_nothing_has_loaded_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    with continued(GOOD), in_span("usage.flush", "CONSUMER", {}) as span:
        (fields,) = publish((0, "s", PACK))
        link_senders(span, [GOOD])
        note_figures(span, {"usage.events": 1})
        assert (span, span_ids(), read_traceparent(GOOD)) == (None, {}, None)
    end_span(start_span("usage.publish", "PRODUCER", {}))
    assert fields == PACK.fields()
    assert traceparent_field(None) == {}
    assert "opentelemetry.trace" not in sys.modules
