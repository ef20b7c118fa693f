"""Random faults while publishers and workers run. The test prints its seed; USAGE_FAULT_SEED repeats a run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from tests.faults.flusher import POINTS
from tests.faults.harness import Harness, process_state
from tests.faults.proxy import Proxy
from tests.helpers import eventually
from tests.integration.database import run
from usage_worker.events.event import Window
from usage_worker.events.external_ids import external_ids, uuid_of
from usage_worker.events.wire import prepare
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import GROUP
from usage_worker.settings import DEFAULT_ID_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.preloaded import Forked
    from usage_worker.local import EmbeddedPostgres, EmbeddedValkey

SECONDS = float(os.environ.get("USAGE_FAULT_SECONDS", "15"))
SEED = int(os.environ.get("USAGE_FAULT_SEED", str(time.time_ns() % 1_000_000)))
WORKERS = 3
# Bodies of one event each.
HOSTILE = [b"[0]", b"[" * 10_000, b"\x1f\x8b\x00", b'[{"user_id": "a\x00"}]', b'["' + b"x" * 2**21 + b'"]', b"[1" * 9]


class FaultInjector:
    """Runs workers and injects random faults into them and their servers."""

    def __init__(
        self, harness: Harness, proxy: Proxy, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, random: Random
    ) -> None:
        self.harness, self.proxy, self.postgres, self.valkey, self.random = harness, proxy, postgres, valkey, random
        self.workers: list[Forked] = []
        self.log: list[str] = []
        self.names: set[str] = set()

    @property
    def faults(self) -> list[Callable[[], object]]:
        often = [self.kill, self.stop, self.resume, self.cut, self.cut_at_commit, self.kill_clients]
        return [
            *often,
            *often,
            self.restart_postgres,
            self.restart_valkey,
            self.destroy_groups,
            self.poison,
            self.poison,
            self.name_conversation,
            self.name_conversation,
        ]

    def inject(self) -> None:
        fault = self.random.choice(self.faults)
        self.log.append(fault.__name__)
        fault()
        self.replace_dead_workers()

    def replace_dead_workers(self) -> None:
        """Start missing workers; half of them will fail at one of the points of a batch."""
        self.workers = [process for process in self.workers if process.poll() is None]
        while len(self.workers) < WORKERS:
            point = [self.random.choice(POINTS), self.random.choice(["KILL", "STOP"])]
            arguments = point if self.random.random() < 0.5 else []
            self.workers.append(self.harness.worker(*arguments))

    def kill(self) -> None:
        victim = self.random.choice(self.workers)
        victim.kill()
        victim.wait()

    def stop(self) -> None:
        self.random.choice(self.workers).send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.workers:
            process.send_signal(signal.SIGCONT)

    def cut(self) -> None:
        self.proxy.cut_all()

    def cut_at_commit(self) -> None:
        self.proxy.cut_next(self.random.choice(["before COMMIT", "after COMMIT"]))

    def kill_clients(self) -> None:
        self.harness.redis.client_kill_filter(_type="normal", skipme=True)

    def restart_postgres(self) -> None:
        self.postgres.restart(self.random.choice(["fast", "immediate"]))

    def restart_valkey(self) -> None:
        self.valkey.restart()

    def poison(self) -> None:
        """Add an entry that cannot be counted; its key makes it one entry, however often its answer is lost."""
        entry = {"v": "1", "n": "1", "id": str(uuid4()), "events": self.random.choice(HOSTILE)}
        eventually(lambda: self.added(entry), 30)
        self.harness.sent += 1

    def name_conversation(self) -> None:
        """Add an event of a conversation that the application calls by a name of its own, perhaps by one of earlier."""
        name = f"talk {self.random.randrange(20)}"
        user, agent = (
            self.random.choice(ids) for ids in (self.harness.population.users, self.harness.population.agents)
        )
        when = datetime.now(UTC)
        event = {"event_id": uuid4(), "occurred_at": when, "user_id": user, "agent_id": agent, "conversation_id": name}
        prepared = prepare(event, Window.around(when, timedelta(days=1)), external_ids(DEFAULT_ID_NAMESPACE))
        pack = Pack.of_rows(uuid4(), prepared.row, prepared.made)
        eventually(lambda: self.added(pack.fields()), 30)
        self.harness.record([event | {"conversation_id": uuid_of("conversation", name)}])
        self.names.add(name)

    def added(self, entry: dict[Any, Any]) -> bool:
        with suppress(redis.RedisError):
            return bool(self.harness.redis.xadd(f"usage:events:{{{self.random.randrange(2)}}}", entry))
        return False

    def destroy_groups(self) -> None:
        for shard in range(2):
            if self.harness.redis.exists(key := f"usage:events:{{{shard}}}"):
                self.harness.redis.xgroup_destroy(key, GROUP)

    def end(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait()


@pytest.mark.timeout(SECONDS + 500)
def test_random_faults(
    durable_database: str, durable_postgres: EmbeddedPostgres, durable_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    print(f"\nrandom faults for {SECONDS:.0f} s with USAGE_FAULT_SEED={SEED}")  # noqa: T201
    random = Random(SEED)
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(Proxy(durable_database)))
        harness = stack.enter_context(closing(Harness(proxy.url, durable_valkey.url(2))))
        injector = FaultInjector(harness, proxy, durable_postgres, durable_valkey, random)
        stack.callback(injector.end)
        injector.replace_dead_workers()
        with harness.publishers(tmp_path, 1, 1_000, SECONDS + 60):
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                injector.inject()
                # The pace of the faults; their effects are awaited below.
                time.sleep(random.uniform(0.05, 0.8))
        injector.end()
        eventually(lambda: all(process_state(process.pid) in ("", "Z") for process in injector.workers))
        with harness.workers(2):
            eventually(harness.settled, 180)
        assert injector.log, "no fault was injected"
        harness.check()
        kept = run(durable_database, "SELECT id, external_id FROM public.usage_external_ids")
        assert dict(kept) == {uuid_of("conversation", name): name for name in injector.names}
