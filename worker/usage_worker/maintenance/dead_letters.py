"""Dead letters: choose them, repair their events, and replay those."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid5

from usage_worker.errors import ArgumentError, EventRefusedError, StreamUnavailableError
from usage_worker.events.event import Window, microseconds
from usage_worker.events.external_ids import made_of
from usage_worker.events.values import read_json
from usage_worker.events.wire import Prepared, prepare
from usage_worker.maintenance.dead_letter_pages import Size, matching_sizes, summaries, with_payloads
from usage_worker.queue.entry import RawEntry
from usage_worker.queue.letter_events import DeadLetterRow, placed_events, restore
from usage_worker.store.byte_pages import in_pages
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

# Ids are of the type bigint.
BEYOND_IDS = 2**63
FLUSH_SECONDS = 60.0
# Waiting for Redis this often keeps the publisher's buffer far from its bound, where it would drop events.
FLUSH_EVERY = 10_000
UNSENT = "not all events were sent; replay again, nothing is counted twice"


class EventSender(Protocol):
    """What a replay needs of a `UsagePublisher`."""

    @property
    def ids(self) -> ExternalIds | None: ...

    def send(self, event: Prepared) -> bool: ...

    def flush(self, timeout: float) -> bool: ...


class ReplayReport(NamedTuple):
    """Numbers of events that were sent, and of dead letters that still cannot be counted."""

    sent: int
    bad: int


@dataclass(frozen=True, slots=True)
class RepairEdits:
    """Changes to the events of dead letters before their replay.

    `constants` are set in every event, the fields `dropped` are removed, and `body` replaces the payload: JSON of an
    event, or of an array of events.
    """

    constants: dict[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    body: str | None = None

    def events(
        self, dead_letter: DeadLetterRow, window: Window, ids: ExternalIds | None = None, recent: Window | None = None
    ) -> list[Prepared]:
        """Return the dead letter's events, repaired, with the identities that ingest gave or would give them.

        With `ids` they may have any id. `recent` is the window of those with a key and no time, by default the same.

        Raises:
            EventRefusedError: one of them still cannot be counted.
        """
        try:
            placed = placed_events(dead_letter, self.body)
        except (ValueError, RecursionError) as error:
            raise EventRefusedError(f"is not JSON: {error}; give a repaired body with --body") from None
        if not placed or not all(isinstance(item, dict) for _, item in placed):
            raise EventRefusedError("is not an event; give a repaired body with --body")
        originals = _originals(dead_letter)
        events = (self._event(dead_letter, item, place, window, ids, recent or window) for place, item in placed)
        return [event._replace(made=[*event.made, *made_of(event.row, originals)]) for event in events]

    def _event(
        self,
        dead_letter: DeadLetterRow,
        item: dict[str, Any],
        place: int | str,
        window: Window,
        ids: ExternalIds | None,
        recent: Window,
    ) -> Prepared:
        """Edit one event; one without identity or time gets both from its place in the stream, as ingest gives them."""
        fields = {name: value for name, value in item.items() if name not in self.dropped} | self.constants
        has_key, has_time = (fields.get(name) is not None for name in ("event_id", "occurred_at"))
        if not has_key:
            fields["event_id"] = uuid5(dead_letter["entry_key"], str(place))
        if not has_time:
            entered_at = _entered_at(dead_letter)
            fields["occurred_at"] = entered_at
            # The first time of its key decides whether it counts, and is kept for so long only.
            if has_key and (refusal := recent.refusal(microseconds(entered_at))):
                untimed = "and the event has no time of its own; give it one with --set occurred_at=TIME"
                raise EventRefusedError(f"{refusal}, {untimed}")
        return prepare(fields, window, ids)._replace(time_is_ours=has_key and not has_time)


def dead_letters_by_id(store: Store, ids: Sequence[int]) -> Iterator[DeadLetterRow]:
    """Return the dead letters with these numbers, oldest first, a page at a time.

    Raises:
        ArgumentError: one of them does not exist, before the first is read.
    """
    return with_payloads(store, [Size(it["id"], it["bytes"]) for it in require_summaries(store, ids)])


def require_summaries(store: Store, ids: Sequence[int]) -> list[DeadLetterRow]:
    """Return the dead letters with these numbers, oldest first, without their payloads.

    Raises:
        ArgumentError: one of them does not exist.
    """
    wanted = sorted(set(ids))
    found = list(summaries(store, [number for number in wanted if abs(number) < BEYOND_IDS]))
    if missing := set(wanted) - {it["id"] for it in found}:
        raise ArgumentError(f"there is no dead letter {min(missing)}")
    return found


def matching_dead_letters(store: Store, wanted: DeadLetterFilter) -> Iterator[DeadLetterRow]:
    """Yield the dead letters that match a filter and exist when the first is read, oldest first, a page at a time."""
    return with_payloads(store, matching_sizes(store, wanted))


def replay(
    store: Store,
    sender: EventSender,
    dead_letters: Iterable[DeadLetterRow],
    edits: RepairEdits,
    settings: Settings,
    on_problem: Callable[[int, EventRefusedError], None],
) -> ReplayReport:
    """Send the events of dead letters again and mark the dead letters; replayed twice, an event counts once.

    They are accepted as long as the ledger keeps their day: the sender is that of a backfill. Those with a key and no
    time are accepted for the acceptance window. `on_problem` gets the number of each dead letter that still cannot be
    counted, and the reason.

    Raises:
        StreamUnavailableError: Redis did not take all events; the page of dead letters in hand is not marked.
    """
    now = store.now()
    kept, recent = Window.of_backfill(now, settings.retention_days), Window.around(now, settings.accept_window)
    repair = partial(edits.events, window=kept, ids=sender.ids, recent=recent)
    sent = bad = 0
    for page in in_pages(dead_letters, lambda it: len(it["payload"])):
        replayed = []
        for number, events in _repaired(page, repair, on_problem):
            for event in events:
                sent += 1
                if not sender.send(event) or (sent % FLUSH_EVERY == 0 and not sender.flush(FLUSH_SECONDS)):
                    raise StreamUnavailableError(UNSENT)
            replayed.append(number)
        # Marked only when they are in the stream: a crash in between replays them again, which counts nothing twice.
        if not sender.flush(FLUSH_SECONDS):
            raise StreamUnavailableError(UNSENT)
        store.rows(query("mark_replayed"), ids=replayed)
        bad += len(page) - len(replayed)
    return ReplayReport(sent, bad)


def _repaired(
    dead_letters: Sequence[DeadLetterRow],
    repair: Callable[[DeadLetterRow], list[Prepared]],
    on_problem: Callable[[int, EventRefusedError], None],
) -> Iterator[tuple[int, list[Prepared]]]:
    """Yield number and events of each dead letter that can be counted now."""
    for dead_letter in dead_letters:
        try:
            yield dead_letter["id"], repair(dead_letter)
        except EventRefusedError as error:
            on_problem(dead_letter["id"], error)


def _originals(dead_letter: DeadLetterRow) -> Any:
    """Return what the field `ids` of a whole entry holds, None where there is none; ingest checks it."""
    try:
        return read_json(restore(dead_letter)[b"ids"])
    except (KeyError, ValueError, RecursionError):
        return None


def _entered_at(dead_letter: DeadLetterRow) -> datetime:
    """Return when the entry came into the stream, which is the time that ingest gives to events without one."""
    try:
        return RawEntry(dead_letter["entry_id"], {}).added_at
    except (ValueError, OverflowError):
        created_at: datetime = dead_letter["created_at"]
        return created_at
