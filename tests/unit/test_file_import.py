"""Files of events are published from Python, while Redis is unreachable."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.unit.sockets import refusing_url
from usage_worker.errors import EventRefusedError, SettingsError, StreamUnavailableError
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.file_import import ImportReport, publish_file

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = timedelta(days=35)
PLAIN = FieldMapping({}, {})
EVENT = {"user_id": str(uuid4()), "agent_id": str(uuid4())}
GOOD = json.dumps(EVENT) + "\n"


@pytest.fixture
def publisher() -> Iterator[UsagePublisher]:
    opened = UsagePublisher(refusing_url())
    yield opened
    opened.close(timeout=0)


def test_bad_lines_are_reported_with_number_and_reason(publisher: UsagePublisher) -> None:
    old = json.dumps(EVENT | {"occurred_at": (datetime.now(UTC) - WINDOW - timedelta(days=1)).isoformat()})
    text = f"{{\n\n{json.dumps(EVENT | {'colour': 'red'})}\n{old}\n"
    problems: list[tuple[int, str]] = []

    def on_problem(number: int, error: EventRefusedError) -> None:
        problems.append((number, str(error)))

    assert publish_file(publisher, io.StringIO(text), PLAIN, WINDOW, on_problem) == ImportReport(sent=0, bad=3)
    assert [number for number, _ in problems] == [1, 3, 4]
    for (_, problem), reason in zip(problems, ("is not JSON", "colour", "acceptance window"), strict=True):
        assert reason in problem


def test_unreachable_redis_is_error(publisher: UsagePublisher) -> None:
    with pytest.raises(StreamUnavailableError, match="3 events were not sent"):
        publish_file(publisher, io.StringIO(GOOD * 3), PLAIN, WINDOW, fail, timeout=0.1)
    assert publisher.stats().accepted == 3


def test_full_buffer_is_awaited() -> None:
    small = UsagePublisher(refusing_url(), buffer_bytes=2_000)
    with pytest.raises(StreamUnavailableError):
        publish_file(small, io.StringIO(GOOD * 100), PLAIN, WINDOW, fail, timeout=0.1)
    # The buffer refused one event; the others were not read.
    assert small.stats().dropped == 1
    assert 0 < small.stats().accepted < 100
    small.close(timeout=0)


def test_csv_columns_are_mapped(publisher: UsagePublisher) -> None:
    mapping = FieldMapping({"input_tokens": "in"}, EVENT)
    with pytest.raises(StreamUnavailableError):
        publish_file(publisher, io.StringIO("in\n7\n"), mapping, WINDOW, fail, is_csv=True, timeout=0.1)
    assert publisher.stats().accepted == 1
    with pytest.raises(SettingsError, match="no column in"):
        publish_file(publisher, io.StringIO("out\n7\n"), mapping, WINDOW, fail, is_csv=True)


def fail(number: int, error: EventRefusedError) -> None:
    pytest.fail(f"line {number}: {error}")
