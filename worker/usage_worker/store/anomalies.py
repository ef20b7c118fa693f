"""The statements of anomalies: hours that differ from the same hours of the weeks before."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.rows import class_row

from usage_worker.store.connection import dict_rows
from usage_worker.store.needed_role import wrong_role
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

KINDS = ("cost", "errors", "latency", "silence")
# Agents that one statement judges: their hours take some megabytes.
CHUNK_AGENTS = 20


class Span(NamedTuple):
    """The hours to judge, from `start` to before `stop`; what they are compared with begins at `begin`."""

    begin: datetime
    start: datetime
    stop: datetime


class JudgedAgent(NamedTuple):
    """An agent, the first hour that is known of it, and whether its anomalies alert."""

    agent_id: UUID
    first_hour: datetime
    is_alert: bool


@dataclass(frozen=True, slots=True)
class UnusualHour:
    """An hour that differs from the usual, of an agent or, with None, of all; part of an anomaly since `since`."""

    agent_id: UUID | None
    kind: str
    hour: datetime
    since: datetime
    observed: float
    expected: float
    scale: float
    z: float
    samples: int
    baseline: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Consecutive unusual hours of an agent or, with None, of all; the figures are those of its most unusual hour.

    `observed` and `expected` are US dollars an hour (cost), shares of 1 (errors), milliseconds (latency) or the uses
    since `started_at` (silence). `ended_at` is None while it goes on.
    """

    agent_id: UUID | None
    kind: str
    started_at: datetime
    ended_at: datetime | None
    observed: float
    expected: float
    scale: float
    z: float
    samples: int
    baseline: dict[str, Any]
    is_alert: bool
    agent: str | None = None
    """Name of the agent."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Judging:
    """One transaction in which the hours of a span are judged."""

    def __init__(self, connection: Connection, span: Span) -> None:
        self._connection = connection
        self.span = span

    def agents(self, alerts: int) -> list[JudgedAgent]:
        """Return the agents with uses in the span; the anomalies of the first `alerts` of them by cost alert."""
        with self._connection.cursor(row_factory=class_row(JudgedAgent)) as cursor:
            return cursor.execute(query("anomaly_agents"), self.span._asdict() | {"alerts": alerts}).fetchall()

    def unusual_hours(self, agents: Sequence[UUID], min_usd: float) -> Iterator[UnusualHour]:
        """Yield the unusual hours of the total and of each of the agents.

        `min_usd` is the excess in US dollars below which an hour's cost is not unusual.
        """
        silent = [row["hour"] for row in self._rows("hours_without_uses")]
        chunks = [list(agents[start : start + CHUNK_AGENTS]) for start in range(0, len(agents), CHUNK_AGENTS)]
        for chunk in (None, *chunks):
            for name in ("unusual_hours", "unusual_errors", "slow_hours"):
                for row in self._rows(name, agents=chunk, min_usd=min_usd, silent=silent):
                    yield UnusualHour(**row | {"agent_id": None if chunk is None else row["agent_id"]})

    def continued(self) -> list[UnusualHour]:
        """Return the anomalies that reach into the span, each as the hour before it."""
        return [UnusualHour(**row) for row in self._rows("continued_anomalies")]

    def keep(self, anomalies: Sequence[Anomaly], days: int) -> None:
        """Make these the anomalies of the span, and delete those that ended more than `days` days ago."""
        document = json.dumps([it.as_dict() for it in anomalies], default=str)
        for name in ("withdraw_anomalies", "keep_anomalies", "delete_old_anomalies"):
            self._connection.execute(query(name), {"anomalies": document, "days": days, **self.span._asdict()})

    def _rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        return dict_rows(self._connection, query(name), self.span._asdict() | parameters)


@contextmanager
def judging(store: Store, task: str) -> Iterator[Judging]:
    """Begin the only transaction that judges hours.

    Raises:
        BusyError: another process judges.
    """
    with sole_transaction(store, task) as connection:
        connection.execute(query("anomaly_settings"))
        (span,) = connection.execute(query("anomaly_span"), {"task": task}).fetchall()
        yield Judging(connection, Span(*span))


def anomalies(
    store: Store, days: int, agent_id: UUID | None = None, *, only_open: bool = False, only_alerts: bool = False
) -> list[Anomaly]:
    """Return the anomalies that are open or ended within the last `days` days, newest first."""
    parameters = {"days": days, "agent_id": agent_id, "open": only_open, "alerts": only_alerts}
    return [Anomaly(**row) for row in store.rows(query("anomalies"), **parameters)]


def may_read_anomalies(store: Store) -> bool:
    """Return whether this role may read the anomalies, and row-level security does not hide them."""
    may_read: bool = store.rows(query("may_read_anomalies"))[0]["may_read"]
    return may_read


def require_anomalies(store: Store) -> None:
    """Check that this role sees the anomalies; hidden rows would look like none.

    Raises:
        RoleError: it does not.
    """
    if not may_read_anomalies(store):
        raise wrong_role("this role may not read the anomalies", "service_role")


def open_alerts(store: Store) -> list[Anomaly]:
    """Return the open anomalies that alert, newest first."""
    return anomalies(store, 0, only_open=True, only_alerts=True)
