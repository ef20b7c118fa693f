"""Spans of publishing and counting, with the SDK's exporter in memory, and what becomes of a hostile `traceparent`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from usage_worker.errors import StreamUnavailableError
from usage_worker.events.event import Window
from usage_worker.events.wire import exact_row
from usage_worker.ingest.entries import DecodedEntry
from usage_worker.ingest.event_array import TextTable
from usage_worker.ingest.transaction_span import intake_attributes, transaction_span
from usage_worker.integrations.opentelemetry import UsageSpanProcessor
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.account import Account
from usage_worker.publisher.buffer import Buffer
from usage_worker.publisher.hooks import Hooks
from usage_worker.queue.entry import Pack, RawEntry
from usage_worker.queue.entry_spans import entry_spans
from usage_worker.store import Intake
from usage_worker.testing import capture
from usage_worker.tracing import (
    MAX_LINKS,
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
    from collections.abc import Callable, Sequence
    from typing import Any

    from opentelemetry.sdk.trace import ReadableSpan

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
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
NOW = datetime.now(UTC)
PACK = Pack.of_objects(uuid4(), [b"{}", b"{}"])


class Spans:
    """A provider of its own, as an application has one, and the spans that it has exported."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def __getitem__(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sampler | None], Spans]:
    """Return a function that makes spans of this process go to a new provider: the API lets nobody replace one."""

    def use(sampler: Sampler | None = None) -> Spans:
        spans = Spans(sampler)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
        return spans

    return use


@pytest.fixture
def spans(use: Callable[..., Spans]) -> Spans:
    return use()


def entry(traceparent: object) -> DecodedEntry:
    fields = {b"traceparent": traceparent} if isinstance(traceparent, bytes) else {}
    return DecodedEntry.of("s", RawEntry("1-1", fields), TextTable(), Window.around(NOW, timedelta(days=1)))


def publish(*packs: tuple[int, str, Pack], refusals: Sequence[StreamUnavailableError | None] = ()) -> list[Any]:
    with entry_spans(packs) as (entries, answers):
        answers.extend(refusals or [None] * len(packs))
    return [fields for _, fields in entries]


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


def test_versions_to_come_are_read() -> None:
    """The specification lets them append to version 00, and has two flags by now."""
    context = read_traceparent(b"01" + GOOD[2:-2] + b"03-what the future brings")
    assert context
    assert context.is_remote
    assert (f"{context.trace_id:032x}", context.trace_flags) == ("0af7651916cd43dd8448eb211c80319c", 3)


def test_each_entry_names_its_span(spans: Spans) -> None:
    fields = publish((0, "usage:events:{0}", PACK), (1, "usage:events:{1}", PACK))
    for number, span in enumerate(spans["usage.publish"]):
        sent = read_traceparent(fields[number]["traceparent"])
        assert sent
        assert (sent.trace_id, sent.span_id) == (span.context.trace_id, span.context.span_id)
        assert (span.kind, span.parent, span.status.status_code) == (SpanKind.PRODUCER, None, StatusCode.UNSET)
        assert dict(span.attributes or {}) == {
            "messaging.system": "redis",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": f"usage:events:{{{number}}}",
            "messaging.destination.partition.id": str(number),
            "usage.events": 2,
        }


def test_refused_entry_is_an_error_without_its_text(spans: Spans) -> None:
    """The text of an error may quote what was sent."""
    publish((0, "s", PACK), (1, "s", PACK), refusals=[None, StreamUnavailableError("secret")])
    taken, refused = spans["usage.publish"]
    assert taken.status.status_code is StatusCode.UNSET
    assert refused.status.status_code is StatusCode.ERROR
    assert (refused.attributes or {})["error.type"] == "StreamUnavailableError"
    assert "secret" not in refused.to_json()


def test_outage_is_an_error_of_each_entry(spans: Spans) -> None:
    with pytest.raises(StreamUnavailableError), entry_spans([(0, "s", PACK), (1, "s", PACK)]):
        raise StreamUnavailableError("no answer")
    assert [it.status.status_code for it in spans["usage.publish"]] == [StatusCode.ERROR] * 2


def test_span_that_is_not_sampled_is_not_named(use: Callable[..., Spans]) -> None:
    spans = use(ALWAYS_OFF)
    (fields,) = publish((0, "s", PACK))
    assert fields == PACK.fields()
    assert not spans["usage.publish"]


def test_flag_of_the_sender_is_respected(spans: Spans) -> None:
    """A request that its sender did not sample is not exported here, and a link to it would lead nowhere."""
    with continued(GOOD[:-2] + b"00"):
        (fields,) = publish((0, "s", PACK))
    with transaction_span([entry(GOOD[:-2] + b"00")]):
        pass
    assert "traceparent" not in fields
    assert not spans["usage.publish"]
    assert not spans["usage.transaction"][0].links


def test_span_of_a_message_is_the_parent(spans: Spans) -> None:
    with continued(GOOD.decode()):
        publish((0, "s", PACK))
    (span,) = spans["usage.publish"]
    assert span.parent
    assert span.parent.span_id == 0xB7AD6B7169203331


def test_span_of_an_instrumented_server_stays_the_parent(spans: Spans) -> None:
    """It has read the header already."""
    with in_span("POST", "SERVER", {}) as server, continued(GOOD):
        publish((0, "s", PACK))
    assert server
    (span,) = spans["usage.publish"]
    assert span.parent
    assert span.parent.span_id == server.get_span_context().span_id


def test_pack_is_linked_to_the_request_of_its_first_event(spans: Spans) -> None:
    buffer, hooks = Buffer(1, 10**6), Hooks(None, None)
    account = Account(hooks.report)
    row = exact_row((None, None, "usage", uuid4(), uuid4(), 1, 0, 0, *[None] * 6, True, *[None] * 4))
    assert row
    for name in ("first", "second"):
        with in_span(name, "SERVER", {}):
            lane = buffer.add(account, row, (), time_is_ours=False)
    assert lane
    buffer.seal(lane)
    ((sealed, values),) = buffer.unwritten(None)
    publish((0, "s", sealed.make_pack(values)))
    (span,) = spans["usage.publish"]
    assert [link.context for link in span.links] == [it.context for it in spans["first"]]
    assert lane.portions == []
    buffer.add(account, row, (), time_is_ours=False)
    buffer.seal(lane)
    assert buffer.unwritten(None)[-1][0].origin is None


def test_transaction_has_a_link_for_each_entry(spans: Spans) -> None:
    senders = [publish((0, "s", PACK))[0]["traceparent"].encode() for _ in range(3)]
    with transaction_span(list(map(entry, [*senders, senders[0], None]))) as made:
        note_figures(made, intake_attributes(Intake(5, 3, 1, 1)))
    (span,) = spans["usage.transaction"]
    assert [link.context.span_id for link in span.links] == [it.context.span_id for it in spans["usage.publish"]]
    assert dict(span.attributes or {}) == {
        "db.system.name": "postgresql",
        "messaging.batch.message_count": 5,
        "usage.events": 5,
        "usage.applied": 3,
        "usage.duplicate": 1,
        "usage.quarantined": 1,
    }


def test_links_are_bounded(spans: Spans) -> None:
    with transaction_span([entry(b"00-%032x-%016x-01" % (n, n)) for n in range(1, MAX_LINKS + 73)]):
        pass
    (span,) = spans["usage.transaction"]
    assert len(span.links) == MAX_LINKS
    assert span.dropped_links == 0
    assert (span.attributes or {})["usage.links_left_out"] == 72


def test_error_in_a_span_goes_on(spans: Spans) -> None:
    with pytest.raises(ValueError, match="secret"), in_span("usage.flush", "CONSUMER", {}):
        raise ValueError("secret")
    (span,) = spans["usage.flush"]
    assert (span.status.status_code, dict(span.attributes or {})) == (StatusCode.ERROR, {"error.type": "ValueError"})
    assert not span.events


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


def test_our_spans_are_not_counted_as_calls_of_models(spans: Spans) -> None:
    with capture() as events, UsagePublisher() as usage:
        spans.provider.add_span_processor(UsageSpanProcessor(usage, user_id=uuid4(), agent_id=uuid4()))
        with in_span("usage.flush", "CONSUMER", {}):
            publish((0, "s", PACK))
        assert len(spans["usage.publish"]) == 1
        assert events == []
        spans.provider.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        assert len(events) == 1
