"""The journal of a producer: what it is about to send, and what it knows to have arrived, whoever kills it when."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Event = dict[str, Any]


class Journal:
    """A file of NDJSON: a line for each event or dead letter, written before it is sent, and lines `{"sent": number}`.

    Such a line says that the last `number` lines have arrived. What no such line covers may have arrived. Whoever sends
    something again so that it may count as accepted twice writes it again.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def intend(self, events: Iterable[Event] = (), letters: Iterable[Letter] = ()) -> int:
        """Write what is about to be sent; return the number of lines."""
        lines = [json.dumps({"event": event}, default=str) for event in events]
        lines += [json.dumps({"letter": it.token, "events": it.events, "users": it.users}) for it in letters]
        self._write(lines)
        return len(lines)

    def arrived(self, number: int) -> None:
        self._write([json.dumps({"sent": number})])

    def _write(self, lines: Sequence[str]) -> None:
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()  # the kernel keeps it, whatever becomes of this process


@dataclass(frozen=True)
class Letter:
    """What must end as dead letters whose payloads contain the token, with so many events in all.

    The payloads may name these users; their erasure takes what is theirs out of the letters.
    """

    token: str
    events: int = 1
    users: tuple[str, ...] = ()


@dataclass
class Owed:
    """What producers have sent: certainly, or perhaps."""

    events: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By identity all that were sent, more than one where it was sent with other contents, too."""
    certain: Counter[str] = field(default_factory=Counter)
    """The identities of events, and the tokens of dead letters, that have arrived; each with its number of arrivals."""
    letters: dict[str, list[str]] = field(default_factory=dict)
    """By token the users whom dead letters may name."""
    possible: Counter[str] = field(default_factory=Counter)
    """As `certain`, with what may have arrived."""
    least: int = 0
    """Events that have arrived."""
    most: int = 0
    """Events that may have arrived."""

    def read(self, journal: Path) -> None:
        """Add a journal; its last line may be incomplete."""
        open_lines: list[tuple[str, int]] = []
        for line in journal.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            item = json.loads(line)
            if "sent" in item:
                for name, events in open_lines[len(open_lines) - item["sent"] :]:
                    self.certain[name] += events
                    self.least += events
                open_lines = []
            else:
                open_lines.append(self._add(item))

    def _add(self, item: dict[str, Any]) -> tuple[str, int]:
        if event := item.get("event"):
            name, events = str(event["event_id"]), 1
            if event not in self.events[name]:
                self.events[name].append(event)
        else:
            name, events = item["letter"], item["events"]
            self.letters[name] = item["users"]
        self.possible[name] += events
        self.most += events
        return name, events
