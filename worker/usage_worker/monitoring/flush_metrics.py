"""What workers have added up about their flushes, as metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from usage_worker.queue.flush_counters import Counts, FlushCounters


def flush_metrics(counters: Mapping[int, FlushCounters]) -> Iterator[Metric]:
    """Yield the metrics of the flushes, by shard; each kind has a sample, so that the first one is an increase."""
    text = "When a flush of the shard last ended without an error, also one that found nothing; by Redis' clock."
    succeeded = GaugeMetricFamily("usage_flush_last_success_timestamp_seconds", text, labels=["shard"])
    text = "Flushes that an error ended; what they had read waits in Redis and is counted later."
    failures = CounterMetricFamily("usage_flush_failures", text, labels=["shard", "reason"])
    text = "Events that became dead letters."
    quarantined = CounterMetricFamily("usage_quarantined_events", text, labels=["shard", "reason"])
    for shard, it in counters.items():
        if it.succeeded_at is not None:
            succeeded.add_metric([str(shard)], it.succeeded_at)
        for family, counts in ((failures, it.failures), (quarantined, it.quarantined)):
            for reason, count in counts.items():
                family.add_metric([str(shard), reason], count)
    yield from (succeeded, failures, quarantined)
    text = "How long the transactions of batches took."
    yield _histogram("usage_flush_duration_seconds", text, {shard: it.seconds for shard, it in counters.items()})
    text = "Accepted events of the batches: applied, duplicate and quarantined."
    yield _histogram("usage_batch_events", text, {shard: it.events for shard, it in counters.items()})
    text = "Time from Redis' acceptance of an entry until its events were committed, by entry."
    yield _histogram("usage_event_visible_seconds", text, {shard: it.visible for shard, it in counters.items()})


def _histogram(name: str, text: str, counts: Mapping[int, Counts]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["shard"])
    for shard, (buckets, total) in counts.items():
        family.add_metric([str(shard)], [(_text(bound), count) for bound, count in buckets], total)
    return family


def _text(bound: float) -> str:
    return "+Inf" if bound == math.inf else str(float(bound))
