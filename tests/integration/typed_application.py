"""An application that uses what is public; `test_installed` checks its types against the wheel."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

from usage_worker import Event, EventLoss, PublisherStats, UsageError, UsagePublisher
from usage_worker.testing import capture

if TYPE_CHECKING:
    from collections.abc import Mapping

USER, AGENT = uuid4(), uuid4()
LOST: list[tuple[str, str, int, Mapping[str, object] | None]] = []


def before_send(event: dict[str, object]) -> dict[str, object] | None:
    return event if event["model"] else None


def on_error(loss: EventLoss) -> None:
    LOST.append((loss.kind, loss.reason, loss.count, loss.event))


async def publish_async() -> int:
    async with UsagePublisher(before_send=before_send, on_error=on_error, disabled=False) as usage:
        with capture() as events:
            usage.track(str(USER), str(AGENT), model="x")
        assert await usage.aflush()
        return len(events) + usage.stats().filtered


def publish(url: str) -> tuple[str | None, PublisherStats]:
    with UsagePublisher(url) as usage:
        identity: str | None = usage.track(USER, AGENT, cost_usd=Decimal("0.1"), occurred_at=datetime.now(UTC))
        usage.rate(USER, AGENT, 4.5)
        event: Event = {"user_id": USER, "agent_id": AGENT}
        usage.add(dict(event))
        return identity, usage.stats()


def refused(error: UsageError) -> str:
    return str(error)
