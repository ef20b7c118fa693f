"""Invalid arguments of an application are refused, counted and logged; nothing is raised into its request."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from typing_extensions import override

import usage_worker.events.event
from tests.integration.commands import NOW, Cli, events, figures
from usage_worker.publisher import UsagePublisher

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, AGENT = uuid4(), uuid4()
PAIR = {"user_id": USER, "agent_id": AGENT}
LATEST = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
EARLIEST = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
HALF = "\ud83d"


class Raising:
    """An object whose every method raises."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__

    def __eq__(self, _: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        return 1

    def __index__(self) -> int:
        raise RuntimeError("index")

    __int__ = __float__ = __bool__ = __len__ = __index__


class RaisingDict(dict[str, Any]):
    """A dictionary that cannot be read."""

    @override
    def keys(self) -> Any:
        raise LookupError("keys")

    @override
    def get(self, *_: object) -> Any:
        raise LookupError("get")


class OddUuid(UUID):
    """An object that equals a UUID without being one."""

    @override
    def __getattribute__(self, name: str) -> Any:
        return "odd" if name == "int" else super().__getattribute__(name)


class OddZone(tzinfo):
    """A time zone whose offset cannot be determined."""

    @override
    def utcoffset(self, _: datetime | None) -> Any:
        raise RuntimeError("offset")

    tzname = dst = utcoffset


class OddTime(datetime):
    """A time that cannot be converted."""

    @override
    def __sub__(self, _: object) -> Any:
        raise RuntimeError("sub")


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


VALUES: dict[str, Any] = {
    "raising": Raising(),
    "half a character": HALF,
    "zero byte": "a\x00b",
    "huge": 10**5_000,
    "signalling": Decimal("sNaN"),
    "endless": Decimal("1e999999999"),
    "deep": deep(),
    "bytes": b"\xff",
    "type": Raising,
}
FIELDS = tuple(name for name in usage_worker.events.columns.NAMES if name not in {"type", "rating"})


@pytest.fixture
def publisher(redis_url: str) -> Iterator[UsagePublisher]:
    with UsagePublisher(redis_url) as publisher:
        yield publisher


def refused(publisher: UsagePublisher, caplog: pytest.LogCaptureFixture) -> int:
    stats = publisher.stats()
    assert stats.accepted == 0
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return stats.refused


@pytest.mark.parametrize("kind", VALUES)
def test_invalid_values_are_refused(publisher: UsagePublisher, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    value = VALUES[kind]
    for field in FIELDS:
        arguments: Any = PAIR | {"occurred_at": NOW, field: value}
        assert publisher.track(**arguments) is None, field
        assert publisher.add(arguments) is None, field
    for field in ("rating", "user_id", "event_id", "occurred_at"):
        arguments = PAIR | {"rating": 3, "occurred_at": NOW, field: value}
        assert publisher.rate(**arguments) is None, field
    assert refused(publisher, caplog) == 2 * len(FIELDS) + 4
    assert caplog.records


@pytest.mark.parametrize(
    "when",
    [
        LATEST,
        EARLIEST,
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+01:00",
        NOW.replace(tzinfo=None),
        NOW.replace(tzinfo=OddZone()),
        OddTime.now(UTC),
        1e300,
    ],
)
def test_invalid_times_are_refused(publisher: UsagePublisher, caplog: pytest.LogCaptureFixture, when: Any) -> None:
    assert publisher.track(USER, AGENT, occurred_at=when) is None
    assert publisher.rate(USER, AGENT, 3, occurred_at=when) is None
    assert publisher.add({**PAIR, "occurred_at": when}) is None
    assert refused(publisher, caplog) == 3


@pytest.mark.parametrize(
    ("when", "reason"), [(LATEST, "in the future"), (EARLIEST, "older than the acceptance window")]
)
def test_ends_of_calendar_are_outside_window(
    publisher: UsagePublisher, caplog: pytest.LogCaptureFixture, when: datetime, reason: str
) -> None:
    assert publisher.track(USER, AGENT, occurred_at=when) is None
    assert reason in caplog.text


DICTIONARIES: list[Any] = [
    None,
    [],
    "text",
    Raising(),
    {},
    {**PAIR, 99: 1},
    {**PAIR, 3: 1},
    {**PAIR, None: 1},
    {**PAIR, (1, 2): 1},
    {**PAIR, Raising(): 1},
    {**PAIR, HALF: 1},
    {**PAIR, "a\x00\x1b[2J\nb": 1},
    {**PAIR, "x" * 100_000: 1},
    RaisingDict(PAIR),
    {"user_id": OddUuid(int=7), "agent_id": AGENT},
]


@pytest.mark.parametrize("fields", DICTIONARIES)
def test_invalid_dictionaries_are_refused(
    publisher: UsagePublisher, caplog: pytest.LogCaptureFixture, fields: Any
) -> None:
    assert publisher.add(fields) is None
    assert refused(publisher, caplog) == 1
    assert len(caplog.text) < 1_000


def test_non_string_key_is_named(publisher: UsagePublisher, caplog: pytest.LogCaptureFixture) -> None:
    fields: dict[Any, Any] = {**PAIR, 3: 1}
    publisher.add(fields)
    assert "event refused: 3: Keys should be strings" in caplog.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_exit_exceptions_are_not_caught(publisher: UsagePublisher, stop: type[BaseException]) -> None:
    class Stopping(RaisingDict):
        @override
        def keys(self) -> Any:
            raise stop

    with pytest.raises(stop):
        publisher.add(Stopping(PAIR))
    assert publisher.stats().refused == 0


def test_file_continues_after_every_bad_line(cli: Cli) -> None:
    good, *others = events(3).splitlines()
    bad = [
        events(1, occurred_at="9999-12-31T23:59:59-12:00").strip(),
        events(1, occurred_at="0001-01-01T00:00:00+01:00").strip(),
        events(1, occurred_at=[[]]).strip(),
        events(1, model=HALF).strip(),
        events(1, **{"a\x00\x1b[2Jb": 1}).strip(),
        json.dumps({"user_id": "\x00"}),
        '{"a": ' + "9" * 5_000 + "}",
        '{"model": ' + "[" * 900 + "]" * 900 + "}",
        '{"occurred_at": ' + "[" * 900 + "]" * 900 + "}",
    ]
    cli.env["USAGE_UNKNOWN"] = "create"
    done = cli.run("publish", "-", stdin="\n".join([good, *bad, *others]).encode())
    assert (done.returncode, done.stdout) == (1, f"3 events sent, {len(bad)} bad lines\n")
    error_lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in error_lines] == [f"line {number + 2}" for number in range(len(bad))]
    assert all(line.isprintable() for line in error_lines)
    assert "in the future" in error_lines[0]
    assert "acceptance window" in error_lines[1]
    assert cli.drained() == figures(applied=3)


def test_times_shifted_beyond_calendar_are_bad_lines(cli: Cli) -> None:
    text = "when\n2020-01-01T00:00:00\n9999-12-31T23:59:59\n9999-12-31T23:59:59-12:00\n0001-01-01T00:00:00+01:00\n"
    cli.folder.joinpath("old.csv").write_text(text)
    options = ("--map", "occurred_at=when", "--assume-utc", "--draw-pairs", "1", "--start-at", f"{NOW:%Y-%m-%d}")
    done = cli.run("publish", "old.csv", *options)
    assert (done.returncode, done.stdout) == (1, "1 event sent, 3 bad lines\n"), done.stderr
    assert [line.partition(": ")[2].split(":")[1] for line in done.stderr.splitlines()] == [" occurred_at"] * 3


def test_invalid_csv_header(cli: Cli) -> None:
    cli.folder.joinpath("odd.csv").write_text("a" * 200_000 + ",b\n1,2\n")
    assert "header" in cli.error_line("publish odd.csv")
