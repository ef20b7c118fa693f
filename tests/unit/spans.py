"""Spans of this process, exported to memory; entries that are published and read in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from usage_worker.events.event import Window
from usage_worker.ingest.entries import DecodedEntry
from usage_worker.ingest.event_array import TextTable
from usage_worker.queue.entry import Pack, RawEntry
from usage_worker.queue.entry_spans import entry_spans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

    from usage_worker.errors import StreamUnavailableError

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
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


def entry(traceparent: object) -> DecodedEntry:
    fields = {b"traceparent": traceparent} if isinstance(traceparent, bytes) else {}
    return DecodedEntry.of("s", RawEntry("1-1", fields), TextTable(), Window.around(NOW, timedelta(days=1)))


def publish(*packs: tuple[int, str, Pack], refusals: Sequence[StreamUnavailableError | None] = ()) -> list[Any]:
    with entry_spans(packs) as (entries, answers):
        answers.extend(refusals or [None] * len(packs))
    return [fields for _, fields in entries]
