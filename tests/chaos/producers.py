"""A process that sends events until SIGUSR1: `python -m tests.chaos.producers KIND JOURNAL SEED RATE [PORT]`.

KIND is how: `track` by a publisher, `xadd` as entries of its own making, `celery` as messages of `usage.track`, `http`
to `usage-worker serve`. Everything that may have failed is sent again until it has arrived. SIGTERM does what it does
to any such program.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from tests.chaos.hostile import MESSAGES, bad_event, entry, text, token
from tests.chaos.journal import Journal, Letter
from tests.faults.harness import UNKNOWN_USER
from tests.integration.test_poison_celery import publish
from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.errors import UsageError
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.stream import EventStream
from usage_worker.service.broker import broker_of
from usage_worker.settings import load_settings
from usage_worker.testing.workload import Population, generate_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.journal import Event

POPULATION = Population.of(USERS, AGENTS)
# Shares of all events, and of batches.
RATINGS, DUPLICATES, CONTESTED = 0.02, 0.02, 0.005
HOSTILE = 0.1
MOST_EVENTS = 40
RETRY_SECONDS = 0.2


def traffic(random: Random) -> Iterator[Event]:
    """Generate events of the last three days: uses, ratings, duplicates, and identities with other contents."""
    while True:
        for fields in generate_usage(POPULATION, 1_000, "production", random.getrandbits(32)):
            when = datetime.now(UTC) - timedelta(seconds=random.random() ** 4 * 3 * 86_400)
            event = fields | {"event_id": str(uuid4()), "occurred_at": when}
            draw = random.random()
            if draw < RATINGS:
                kept = {key: event[key] for key in ("event_id", "occurred_at", "user_id", "agent_id")}
                event = kept | {"type": "rating", "rating": f"{random.randint(0, 500) / 100}"}
            elif draw < RATINGS + CONTESTED:
                yield event | {"input_tokens": event["input_tokens"] + 1_000_000}
            elif draw < RATINGS + CONTESTED + DUPLICATES:
                yield dict(event)
            yield event


class Producer(Protocol):
    """One way of sending."""

    def send(self, events: list[Event], random: Random) -> None: ...

    def finish(self) -> None: ...


class Tracker:
    """Sends by a publisher, which knows after `flush` what has arrived."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.lines, self.batches = journal, 0, 0
        self.publisher = UsagePublisher(settings=load_settings(), disabled=False)

    def send(self, events: list[Event], random: Random) -> None:
        letters = []
        if random.random() < HOSTILE / 5:  # the publisher refuses all that it can see
            letters = [Letter(token())]
            bad = [events[0] | {"event_id": str(uuid4()), "user_id": UNKNOWN_USER, "model": letters[0].token}]
            bad = [{key: it for key, it in bad[0].items() if key not in ("type", "rating")}]
        self.lines += self.journal.intend(events, letters)
        for event in [*events, *(bad if letters else [])]:
            while not self.publisher.add(dict(event)):
                assert not self.publisher.stats().refused, event
                time.sleep(RETRY_SECONDS)
        self.batches += 1
        if self.batches % 10 == 0 and self.publisher.flush(1):
            self._arrived()

    def finish(self) -> None:
        while not self.publisher.flush(5):
            pass
        self._arrived()
        self.publisher.close()

    def _arrived(self) -> None:
        self.journal.arrived(self.lines)
        self.lines = 0


class Adder:
    """Appends entries to any shard, as another language does; hostile ones too."""

    def __init__(self, journal: Journal) -> None:
        self.journal, settings = journal, load_settings()
        self.stream, self.replicas = EventStream.of(settings), settings.redis_replicas

    def send(self, events: list[Event], random: Random) -> None:
        fields: Any = {"v": "1", "n": str(len(events)), "id": str(uuid4()), "events": text(events)}
        letters: list[Letter] = []
        if random.random() < HOSTILE:
            fields, events, letters = entry(random, events[:3])
        if random.random() < 0.1:
            del fields["id"]
        key, lines = self.stream.key(random.randrange(self.stream.shards)), 0
        while True:
            if not lines or "id" not in fields:
                lines = self.journal.intend(events, letters)
            with suppress(UsageError), self.stream.connection.client(key) as client:
                pipeline = client.pipeline(transaction=False)
                pipeline.xadd(key, fields)
                pipeline.wait(self.replicas, 1_000)
                if pipeline.execute()[1] >= self.replicas:
                    break
            time.sleep(RETRY_SECONDS)
        self.journal.arrived(lines)

    def finish(self) -> None:
        self.stream.close()


class CelerySender:
    """Sends messages of `usage.track` and `usage.track_many`; what is sent twice has one id, and counts once."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.app = Celery()
        self.app.conf.update(broker_of(load_settings()))

    def send(self, events: list[Event], random: Random) -> None:
        events, task_id, letters, body = events[: random.choice([1, 1, 10])], str(uuid4()), list[Letter](), ""
        if random.random() < HOSTILE:
            letters = [Letter(token())]
            body = random.choice(MESSAGES).replace("T", letters[0].token)
            events = []
        lines = self.journal.intend(events, letters)
        while True:
            with suppress(KombuError, RedisError, OSError):
                if body:
                    publish(self.app, body, id=task_id)
                elif len(events) == 1:
                    self.app.send_task("usage.track", kwargs=events[0], task_id=task_id, retry=False)
                else:
                    self.app.send_task("usage.track_many", args=[events], task_id=task_id, retry=False)
                break
            time.sleep(RETRY_SECONDS)
        self.journal.arrived(lines)

    def finish(self) -> None:
        self.app.close()


class Poster:
    """Posts to `usage-worker serve`, which refuses bad events by itself; a request that failed is another arrival."""

    def __init__(self, journal: Journal, port: int) -> None:
        self.journal, self.port = journal, port

    def send(self, events: list[Event], random: Random) -> None:
        bad = [bad_event(random, events[0], token())] if random.random() < HOSTILE else []
        bad = [event for event in bad if event["user_id"] != UNKNOWN_USER]
        body = text([*events, *bad])
        while True:
            lines = self.journal.intend(events)
            with suppress(OSError, HTTPException):
                status, answer = self._post(body)
                if status == 202:
                    assert (answer["accepted"], len(answer["refused"])) == (len(events), len(bad)), answer
                    break
                assert status in (429, 503), (status, answer)
            time.sleep(RETRY_SECONDS)
        self.journal.arrived(lines)

    def _post(self, body: str) -> tuple[int, Any]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            headers = {"content-type": "application/json", "authorization": f"Bearer {os.environ['CHAOS_KEY']}"}
            connection.request("POST", "/api/v1/events", body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def finish(self) -> None:
        """Do nothing: each request was answered."""


def main(kind: str, path: str, seed: str, rate: str, port: str = "0") -> None:
    ending: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: ending.append(number))
    journal, random = Journal(Path(path)), Random(int(seed))
    kinds: dict[str, Callable[[], Producer]] = {
        "track": partial(Tracker, journal),
        "xadd": partial(Adder, journal),
        "celery": partial(CelerySender, journal),
        "http": partial(Poster, journal, int(port)),
    }
    producer = kinds[kind]()
    events, due = traffic(random), time.monotonic()
    while not ending:
        batch = [next(events) for _ in range(random.randint(1, MOST_EVENTS))]
        producer.send(batch, random)
        # After a stop or an outage it goes on at its pace.
        due = max(due, time.monotonic() - 1) + len(batch) / float(rate)
        time.sleep(max(due - time.monotonic(), 0))
    producer.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
