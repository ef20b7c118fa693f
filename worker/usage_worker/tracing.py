"""Spans of ours, made with the API of OpenTelemetry where this process has loaded it.

Nothing here imports it: who has a tracer provider has loaded it, and a publisher without one pays 3 µs for an entry.
A tracer, and what others send as a `traceparent`, may be wrong in any way: no function here raises for it.

The form of a `traceparent`: https://www.w3.org/TR/trace-context/. Attributes are those of the semantic conventions for
messaging, and ours begin with `usage.`; none has an id of a user, an event's contents or the text of an error.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry import trace as api

    Span: TypeAlias = api.Span
    SpanContext: TypeAlias = api.SpanContext

TRACEPARENT = "traceparent"
"""The field of an entry, the header of a request and of a Celery message."""
# What the SDK keeps by default.
MAX_LINKS = 128
# Versions to come may append to the 55 of version 00.
_MAX_LENGTH = 512
_FORM = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_log = logging.getLogger(__name__)


def read_traceparent(traceparent: object) -> SpanContext | None:
    """Return the span that a `traceparent` names, None where it names none or nothing has loaded OpenTelemetry."""
    trace = _trace()
    text = traceparent.encode(errors="replace") if isinstance(traceparent, str) else traceparent
    if trace is None or not isinstance(text, bytes) or len(text) > _MAX_LENGTH:
        return None
    match = _FORM.fullmatch(text)
    if match is None or (match[5] and match[1] == b"00"):
        return None
    trace_id, span_id, flags = (int(digits, 16) for digits in match.group(2, 3, 4))
    context: SpanContext = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    return context if context.is_valid else None


def current_span() -> SpanContext | None:
    """Return the span of this thread or task that is exported, None where there is none."""
    context = _current()
    return context if context and context.trace_flags.sampled else None


def span_ids() -> dict[str, str]:
    """Return the ids of the span that a log line belongs to."""
    context = _current()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context else {}


def start_span(
    name: str, kind: str, attributes: Mapping[str, str | int], origin: SpanContext | None = None
) -> Span | None:
    """Start a span that `end_span` ends.

    Args:
        name: its name.
        kind: a name in OpenTelemetry's `SpanKind`.
        attributes: its first attributes.
        origin: a span to link to.
    """
    if trace := _trace():
        with _contained():
            tracer, links = _tracer(trace.get_tracer_provider()), [trace.Link(origin)] if origin else None
            return tracer.start_span(name, kind=trace.SpanKind[kind], attributes=dict(attributes), links=links)
    return None


def end_span(span: Span | None, error: BaseException | None = None) -> None:
    """End a span, as failed where there is an error, of which it has the type: its text may quote events."""
    if span is None:
        return
    with _contained():
        if error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)
        span.end()


@contextmanager
def in_span(name: str, kind: str, attributes: Mapping[str, str | int]) -> Iterator[Span | None]:
    """Make a span of the block, the parent of those in it."""
    started = start_span(name, kind, attributes)
    try:
        with _active(started):
            yield started
    except BaseException as error:
        end_span(started, error)
        raise
    end_span(started)


@contextmanager
def continued(traceparent: object) -> Iterator[None]:
    """Let the spans of the block be children of the one that a message names, unless there is one already."""
    context = None if _current() else read_traceparent(traceparent)
    with _active(sys.modules["opentelemetry.trace"].NonRecordingSpan(context) if context else None):
        yield


def note_figures(span: Span | None, attributes: Mapping[str, str | int]) -> None:
    """Add attributes to a span."""
    if span is not None:
        with _contained():
            span.set_attributes(dict(attributes))


def link_senders(span: Span | None, traceparents: Iterable[bytes | None]) -> None:
    """Link a span to those that these name and that are exported: to `MAX_LINKS`, and note how many are left out."""
    if span is None or not span.is_recording():
        return
    left = iter(dict.fromkeys(filter(None, traceparents)))
    contexts = (context for context in map(read_traceparent, left) if context and context.trace_flags.sampled)
    with _contained():
        for context in islice(contexts, MAX_LINKS):
            span.add_link(context)
        if left_out := sum(1 for _ in left):
            span.set_attribute("usage.links_left_out", left_out)


def traceparent_field(span: Span | None) -> dict[str, str]:
    """Return the field that names a span to whoever reads the entry; none for a span that is not exported."""
    context = _context_of(span)
    if not (context and context.trace_flags.sampled):
        return {}
    return {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"}


def messaging_attributes(operation: str, kind: str, stream: str, shard: int) -> dict[str, str | int]:
    """Return the attributes of an operation, of a kind of the conventions, on the stream of a shard."""
    return {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": stream,
        "messaging.destination.partition.id": str(shard),
    }


def _trace() -> Any:
    """Return the API, None where nothing in this process has loaded it, or another thread is just loading it."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace if hasattr(trace, "use_span") else None


def _current() -> SpanContext | None:
    with _contained():
        if trace := _trace():
            return _context_of(trace.get_current_span())
    return None


def _context_of(span: Span | None) -> SpanContext | None:
    with _contained():
        context: SpanContext | None = span.get_span_context() if span else None
        return context if context and context.is_valid else None
    return None


# Making one takes 7 µs. A test or an application may set another provider.
@lru_cache(maxsize=1)
def _tracer(provider: api.TracerProvider) -> api.Tracer:
    return provider.get_tracer("usage_worker")


@contextmanager
def _contained() -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - a tracer of the application, whatever it raises
        _log.debug("a tracer failed", exc_info=True)


@contextmanager
def _active(span: Span | None) -> Iterator[None]:
    if span is None:
        yield
        return
    use_span = sys.modules["opentelemetry.trace"].use_span
    with use_span(span, record_exception=False, set_status_on_exception=False):
        yield
