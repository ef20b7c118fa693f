"""Spans of publishing and counting, with the SDK's exporter in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tests.unit.spans import GOOD, PACK, Spans, entry, publish
from usage_worker.errors import StreamUnavailableError
from usage_worker.events.wire import exact_row
from usage_worker.ingest.transaction_span import intake_attributes, transaction_span
from usage_worker.integrations.opentelemetry import UsageSpanProcessor
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.account import Account
from usage_worker.publisher.buffer import Buffer
from usage_worker.publisher.hooks import Hooks
from usage_worker.queue.entry_spans import entry_spans
from usage_worker.store.intake import Intake
from usage_worker.testing import capture
from usage_worker.tracing import (
    MAX_LINKS,
    continued,
    in_span,
    note_figures,
    read_traceparent,
)

if TYPE_CHECKING:
    from collections.abc import Callable


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


def test_our_spans_are_not_counted_as_calls_of_models(spans: Spans) -> None:
    with capture() as events, UsagePublisher() as usage:
        spans.provider.add_span_processor(UsageSpanProcessor(usage, user_id=uuid4(), agent_id=uuid4()))
        with in_span("usage.flush", "CONSUMER", {}):
            publish((0, "s", PACK))
        assert len(spans["usage.publish"]) == 1
        assert events == []
        spans.provider.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        assert len(events) == 1
