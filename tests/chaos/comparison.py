"""What must be true at the end: everything that has arrived is counted once, and nothing else is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.contents import canonical
from tests.erasure import keys_naming, naming
from tests.faults.totals import wrong_totals
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.queue.connection import RedisConnection
from usage_worker.testing.oracle import Oracle

if TYPE_CHECKING:
    from tests.chaos.administrator import Administrator
    from tests.chaos.journal import Event, Owed
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

TOKEN = re.compile(r"chaos[0-9a-f]{32}")


class Comparison:
    """Compares a database with what producers have sent; `found` has a line for everything that is wrong."""

    def __init__(self, store: Store, settings: Settings, owed: Owed, administrator: Administrator) -> None:
        self.administrator, self.erased = administrator, administrator.erasures.keys()
        self.store, self.settings, self.owed = store, settings, owed
        self.oracle, self.days = Oracle(), defaultdict[date, Oracle](Oracle)
        self.found: list[str] = []

    def run(self) -> list[str]:
        self._choose_events()
        self.found += wrong_totals(self.store, self.oracle, self.days)
        self._compare_letters()
        self._compare_intake()
        self._find_erased()
        report = reconcile(self.store, self.settings)
        self.found += [f"reconcile: {it}" for it in report.differences]
        if report.hours:
            self.found.append(f"{report.hours} hours differ from the ledger")
        return self.found

    def _choose_events(self) -> None:
        """Add to the oracle what is in the ledger, which must be one of the contents that were sent."""
        rows = self._fetch("SELECT *, event_id::text AS event_id FROM public.usage_events")
        counted = {row["event_id"]: row for row in rows}
        if len(counted) < len(rows):
            self.found.append(f"{len(rows) - len(counted)} identities are in the ledger twice")
        for identity in counted.keys() - self.owed.events.keys():
            self.found.append(f"{identity} is in the ledger, and nobody sent it")
        for identity, contents in self.owed.events.items():
            row = counted.get(identity)
            if str(contents[0]["user_id"]) in self.erased:
                continue
            if row is None:
                if self.owed.certain[identity]:
                    self.found.append(f"{identity} has arrived, and is not in the ledger: {contents}")
                continue
            known = self.administrator.contents(contents)
            same = [it for it in known if canonical(it) == canonical(row)]
            if not same:
                self.found.append(f"{identity} has contents that nobody sent: {canonical(row)}, not of {known}")
            else:
                self._add(same[0])

    def _add(self, event: Event) -> None:
        self.oracle.add(event)
        self.days[datetime.fromisoformat(event["occurred_at"]).astimezone(UTC).date()].add(event)

    def _compare_letters(self) -> None:
        letters = Counter[str]()
        for row in self._fetch("SELECT id, events, reason, payload FROM public.usage_dead_letters"):
            tokens = set(TOKEN.findall(row["payload"]))
            if len(tokens) == 1:
                letters[tokens.pop()] += row["events"]
            else:
                self.found.append(f"dead letter of nobody: {row['reason']}: {row['payload'][:500]}")
        for token in letters.keys() | self.owed.letters.keys():
            least, most = self.owed.certain[token], self.owed.possible[token]
            if not self.erased.isdisjoint(self.owed.letters.get(token, ())):
                least = 0
            if not least <= letters[token] <= most:
                self.found.append(f"{token}: {letters[token]} events are dead letters, not {least} to {most}")

    def _compare_intake(self) -> None:
        intake = self.store.intake_totals()
        dead = self._fetch("SELECT coalesce(sum(events), 0) AS events FROM public.usage_dead_letters")[0]["events"]
        least_erased, most_erased = self._erased_events()
        for what, value, least, most in (
            ("accepted", intake.accepted, self.owed.least, self.owed.most),
            ("its parts", intake.applied + intake.duplicate + intake.quarantined, intake.accepted, intake.accepted),
            ("applied", intake.applied, self.oracle.distinct, self.oracle.distinct),
            ("quarantined", intake.quarantined, dead + least_erased, dead + most_erased),
        ):
            if not least <= value <= most:
                self.found.append(f"intake: {what} is {value}, not {least} to {most} ({intake})")

    def _erased_events(self) -> tuple[int, int]:
        """Return how few and how many events are quarantined, and have no dead letter."""
        owed = self.owed
        events = [name for name, it in owed.events.items() if str(it[0]["user_id"]) in self.erased]
        letters = [token for token, users in owed.letters.items() if not self.erased.isdisjoint(users)]
        least = sum(owed.certain[name] > 0 for name in events)
        return least, sum(owed.possible[name] for name in [*events, *letters])

    def _find_erased(self) -> None:
        """Look for the users who were erased in every column of every table, and in every key of Redis."""
        if not self.erased:
            return
        named: list[str | bytes] = [*naming(self.settings.database_url, *self.erased)]
        with closing(RedisConnection.of(self.settings)) as connection:
            for name in connection.servers():
                with connection.server(name) as client:
                    named += keys_naming(client, *self.erased)
        self.found += [f"{place!r} names an erased user" for place in named]

    def _fetch(self, sql: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database_url, row_factory=dict_row) as connection:
            return connection.execute(sql.encode()).fetchall()
