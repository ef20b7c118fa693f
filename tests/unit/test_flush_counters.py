"""Counters and histograms in the record of a shard, and the kinds of errors."""

from __future__ import annotations

import re

import pytest

from usage_worker.errors import (
    BusyError,
    ClockError,
    DuplicateError,
    LockHeldError,
    NamespaceError,
    SchemaError,
    StatementCancelledError,
    StoreUnavailableError,
    StreamRefusedError,
)
from usage_worker.ingest.flush_tally import FlushTally
from usage_worker.queue.flush_counters import (
    EVENTS,
    FAILURES,
    QUARANTINED,
    SECONDS,
    VISIBLE,
    Increments,
    counters_of,
    failure,
    quarantined,
)
from usage_worker.store.intake import Intake

HISTOGRAMS = (SECONDS, EVENTS, VISIBLE)
FIELDS = [
    *(field for histogram in HISTOGRAMS for field in (*histogram.fields, histogram.sum_field)),
    *map(failure, FAILURES),
    *map(quarantined, QUARANTINED),
]


def record(increments: Increments) -> dict[bytes, bytes]:
    return {field.encode(): b"%d" % number for field, number in increments.items()}


def test_histogram_has_each_value_in_its_buckets() -> None:
    increments = Increments()
    values = [0.0, 0.025, 0.0251, 1.0, 90_000.0, 0.3]
    VISIBLE.add(values, increments)
    buckets, total = VISIBLE.read(record(increments))
    assert buckets == [(bound, sum(value <= bound for value in values)) for bound, _ in buckets]
    assert buckets[-1] == (float("inf"), 6)
    assert total == pytest.approx(sum(values), abs=0.001)


def test_tally_is_taken_once() -> None:
    tally = FlushTally()
    tally.committed(0.2, Intake(10, 7, 1, 2), {"user_id: no such user": 2})
    tally.visible([0.1, 0.2])
    tally.failed(SchemaError())
    taken = counters_of(record(tally.take()))
    assert tally.take() == {}
    assert [counts.buckets[-1][1] for counts in (taken.seconds, taken.events, taken.visible)] == [1, 1, 2]
    assert (taken.seconds.total, taken.events.total, taken.visible.total) == pytest.approx((0.2, 10, 0.3))
    assert taken.quarantined == dict.fromkeys(QUARANTINED, 0) | {"unknown_user": 2}
    assert taken.failures == dict.fromkeys(FAILURES, 0) | {"schema": 1}


def test_fields_are_few_and_workers_of_other_versions_keep_them() -> None:
    assert len(FIELDS) == len(set(FIELDS)) < 100
    assert not [field for field in FIELDS if re.search(r":\d+$", field)]


@pytest.mark.parametrize("text", [b"", b"x", b"-5", b"nan", b"inf", b"1e3", b"9" * 30, b"\xff", "٣".encode()])
def test_foreign_text_in_a_counter_is_zero(text: bytes) -> None:
    found = counters_of({field.encode(): text for field in [*FIELDS, "succeeded"]})
    assert found[1:] == counters_of({})[1:]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreUnavailableError(), "postgresql_unavailable"),
        (StatementCancelledError(), "cancelled"),
        (LockHeldError(), "lock"),
        (DuplicateError(), "race"),
        (SchemaError(), "schema"),
        (NamespaceError(), "settings"),
        (ClockError(), "clock"),
        (StreamRefusedError(), "redis"),
        (BusyError(), "other"),
        (KeyError("x"), "other"),
    ],
)
def test_kind_of_an_error(error: Exception, kind: str) -> None:
    tally = FlushTally()
    tally.failed(error)
    assert tally.take() == {failure(kind): 1}
    assert kind in FAILURES
