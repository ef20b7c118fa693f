"""What an administrator does meanwhile: erases users and corrects events, by commands that are killed and repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.fleet import Fleet
    from tests.chaos.journal import Event
    from tests.chaos.topology import Topology
    from usage_worker.local.processes import ChildProcess

MOST_AT_ONCE = 3
MOST_ERASED = USERS // 5
REPEATED = 0.3
FINISH_SECONDS = 120.0


@dataclass
class Work:
    """A command, each time that it was run; `fields` is what a correction sets."""

    arguments: list[str]
    user: str
    fields: Event = field(default_factory=dict)
    runs: list[ChildProcess] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether it has succeeded at least once; otherwise it may have been done, or half done."""
        return any(it.exit_code == 0 for it in self.runs)


class Administrator:
    """Runs erasures and corrections in a fleet, and knows which have succeeded."""

    def __init__(self, fleet: Fleet, topology: Topology, random: Random) -> None:
        self.fleet, self.topology, self.random = fleet, topology, random
        self.users = [str(user) for user in Population.of(USERS, AGENTS).users]
        self.erasures: dict[str, Work] = {}
        """By user."""
        self.corrections: dict[str, Work] = {}
        """By event."""

    def erase(self) -> ChildProcess:
        """Erase some user, perhaps again, perhaps while another command does it."""
        is_again = self.erasures and (len(self.erasures) >= MOST_ERASED or self.random.random() < REPEATED)
        user = self.random.choice(list(self.erasures) if is_again else self.users)
        work = self.erasures.setdefault(user, Work(["forget", user, "--yes"], user))
        return self._run(work)

    def correct(self) -> ChildProcess | None:
        """Correct some event of the ledger that nobody has corrected."""
        place = UUID(int=self.random.getrandbits(128))
        found = self.topology.database.execute(
            "SELECT event_id::text, type, user_id::text FROM public.usage_events"
            f" WHERE event_id >= '{place}' ORDER BY event_id LIMIT 1"
        )
        if not found or found[0][0] in self.corrections or found[0][2] in self.erasures:
            return None
        event, kind, user = found[0]
        fields = self._fields(kind)
        values = [f"--set={name}={'null' if value is None else value}" for name, value in fields.items()]
        self.corrections[event] = Work(["correct", event, *values, "--yes"], user, fields)
        return self._run(self.corrections[event])

    def finish(self) -> list[str]:
        """Repeat each erasure that was interrupted, and every other correction; return those that fail.

        A correction that is not repeated is in the ledger or not.
        """
        works = [it for it in self.erasures.values() if not it.is_done]
        unfinished = [it for it in self.corrections.values() if not it.is_done and it.user not in self.erasures]
        works += [it for it in unfinished if self.random.random() < 0.5]
        for run in [run for work in works for run in work.runs]:
            run.wait(FINISH_SECONDS)
        # All at once would take so long to start that some could not connect in time.
        for start in range(0, len(works), MOST_AT_ONCE):
            for run in [self._run(work) for work in works[start : start + MOST_AT_ONCE]]:
                run.wait(FINISH_SECONDS)
        return [f"{it.arguments} repeated: {it.runs[-1].log_tail()[-600:]}" for it in works if not it.is_done]

    def contents(self, sent: list[Event]) -> list[Event]:
        """Return what may be in the ledger of an event that was sent with these contents."""
        work = self.corrections.get(str(sent[0]["event_id"]))
        if work is None:
            return sent
        return [it | work.fields for it in sent] + ([] if work.is_done else sent)

    def _run(self, work: Work) -> ChildProcess:
        work.runs.append(process := self.fleet.run(*work.arguments))
        return process

    def _fields(self, kind: str) -> dict[str, Any]:
        random = self.random
        if kind == "rating":
            return {"rating": random.randrange(11) / 2}
        fields = {
            "input_tokens": random.randrange(10_000),
            "output_tokens": random.randrange(10_000),
            "cost_usd": random.randrange(10_000) / 1_000,
            "response_time_ms": random.choice([None, random.randrange(5_000)]),
            "success": random.random() < 0.5,
            "messages": random.randrange(5),
            "model": random.choice([None, "corrected"]),
            "conversation_id": random.choice([None, str(uuid4())]),
        }
        return {name: fields[name] for name in random.sample(sorted(fields), random.randint(1, 4))}
