"""The spans of entries that are being added to streams."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING

from usage_worker.tracing import end_span, messaging_attributes, start_span, traceparent_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.errors import StreamUnavailableError
    from usage_worker.queue.entry import Pack

    Entry = tuple[str, dict[str, bytes | int | str]]


@contextmanager
def entry_spans(
    packs: Sequence[tuple[int, str, Pack]],
) -> Iterator[tuple[list[Entry], list[StreamUnavailableError | None]]]:
    """Make a span of each pack, given with its shard and stream, which ends with the block.

    Yields the entries, which name their spans, and a list for why each was refused, None where it is in the stream.
    """
    spans = [
        start_span(
            "usage.publish",
            "PRODUCER",
            messaging_attributes("publish", "send", key, shard) | {"usage.events": pack.events},
            pack.origin,
        )
        for shard, key, pack in packs
    ]
    refusals: list[StreamUnavailableError | None] = []
    failure: BaseException | None = None
    try:
        yield (
            [(key, pack.fields() | traceparent_field(it)) for (_, key, pack), it in zip(packs, spans, strict=True)],
            refusals,
        )
    except BaseException as error:
        failure = error
        raise
    finally:
        for span, refusal in zip_longest(spans, refusals):
            end_span(span, refusal or failure)
