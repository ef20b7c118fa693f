"""Unusual hours that follow each other are one anomaly."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from usage_worker.store.anomalies import Anomaly

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime
    from uuid import UUID

    from usage_worker.store.anomalies import UnusualHour

HOUR = timedelta(hours=1)


def episodes(hours: Iterable[UnusualHour], stop: datetime, alerting: Collection[UUID | None]) -> Iterator[Anomaly]:
    """Join unusual hours of the same agent and kind that follow each other.

    Args:
        hours: the hours, in any order.
        stop: the end of the judged hours; an anomaly that reaches it is open.
        alerting: the agents whose anomalies alert, None for the total.
    """
    ordered = sorted(hours, key=lambda it: (str(it.agent_id), it.kind, it.hour))
    runs = enumerate(ordered)
    for _, run in groupby(runs, lambda numbered: (numbered[1].agent_id, numbered[1].kind, _origin(*numbered))):
        members = [hour for _, hour in run]
        worst = max(members, key=lambda it: it.z)
        end = members[-1].hour + HOUR
        yield Anomaly(
            worst.agent_id,
            worst.kind,
            min(it.since for it in members),
            None if end == stop else end,
            worst.observed,
            worst.expected,
            worst.scale,
            worst.z,
            worst.samples,
            {"hour": worst.hour.isoformat(), **worst.baseline},
            worst.agent_id in alerting,
        )


def _origin(number: int, hour: UnusualHour) -> datetime:
    """Return what is the same for hours that follow each other."""
    return hour.hour - number * HOUR
