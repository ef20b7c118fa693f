"""Whom a dead letter names, whatever its form."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from usage_worker.events.external_ids import external_ids
from usage_worker.queue.letter_parts import named_in, without
from usage_worker.settings import DEFAULT_ID_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = external_ids(DEFAULT_ID_NAMESPACE)
# Texts that JSON writes with escapes.
NAMES = ["ann", 'a"b', "x\\", '\\"', '"', "jürgen", "a\nb", '"john smith"@example.org', "7"]
# Long enough that what reads it from each of its places would take hours, and short enough for one entry.
LONG = 500_000


def user(text: str) -> UUID:
    return IDS.of_text("user", text).id


def nested(text: str, times: int) -> str:
    """Return a text within JSON within JSON."""
    for _ in range(times):
        text = json.dumps({"body": text})
    return text


@pytest.mark.parametrize("broken", [str, lambda text: text[:-1], lambda text: f"worker 3: {text}"])
@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_own_ids_are_found_in_json_and_in_what_is_none(name: str, times: int, broken: Callable[[str], str]) -> None:
    text = broken(nested(json.dumps({"user_id": name, "messages": 1}), times))
    assert named_in(text, IDS) == {user(name)}


@pytest.mark.parametrize("times", [0, 1, 2])
def test_uuids_are_found_wherever_they_stand(times: int) -> None:
    here, there = uuid4(), uuid4()
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in there.hex)
    text = nested(f'{{"note": "of {here}", "user_id": "{escaped}"}}', times)
    assert {here, there} <= named_in(text, IDS)


def test_every_member_and_every_line_of_a_column_is_read() -> None:
    text = '{"user_id": "ann", "user_id": ["bob", 7e0], "agent_id": "d", "user\\u005fid": 1.5, "x": {"user_id": "cy"}}'
    expected = {user(it) for it in ("ann", "bob", "cy", "7")}
    for broken in (text, text[:-2], f"{text} {text}", f"worker 3: {text}", "[" * LONG + text, json.dumps({text: 1})):
        assert named_in(broken, IDS) == expected


def test_quotes_may_be_escaped_by_their_number() -> None:
    """As the JSON of .NET does it."""
    inner = json.dumps({"user_id": 'a"b'}).replace("\\", "\\u005c").replace('"', "\\u0022")
    assert named_in(f'{{"body": "{inner}"}}', IDS) == {user('a"b')}


def deep(text: str, depth: int) -> str:
    """Return JSON in JSON of this depth; escaped by its number a quote takes only five characters more at each."""
    for level in range(depth):
        quote = "\\" + "u005c" * (level - 1) + "u0022" if level else '"'
        text = f"{quote}{text}{quote}"
    return text


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"x": "\\" * LONG}]),
        "\\" * LONG,
        '"user_id": "' + "\\" * LONG,
        '"user_id"' + " " * LONG,
        '"user_id":"' * (LONG // 11),
        "".join(f'{chr(92) * count}"user_id{chr(92) * count}":{chr(92) * count}"' for count in range(1_000)),
        "[" * LONG,
        '{"user_id": ' + "7" * LONG + "}",
        "\\u00" * (LONG // 4),
        "[" + "[]," * LONG + "[]]",
        '["' + '","' * (LONG // 3),
        '"' + '\\"' * LONG,
        '{"user_id":[' + '"user_id":[' * (LONG // 11),
        json.dumps([deep("x" * LONG, 400)]),
        deep('{"user_id": "ann"}', 400),
    ],
    ids=[
        *(
            "text",
            "backslashes",
            "value",
            "spaces",
            "names",
            "depths",
            "brackets",
            "digits",
            "escapes",
            "lists",
            "texts",
        ),
        *("quotes", "columns", "deep", "deeper"),
    ],
)
def test_hostile_text_is_read_once(text: str) -> None:
    """In another process: an expression that tries again and again holds the interpreter."""
    with ProcessPoolExecutor(1) as pool:
        reading = pool.submit(named_in_long, text)
        try:
            reading.result(60)
        except TimeoutError:
            for process in pool._processes.values():  # nothing else ends it
                process.kill()
            raise


def named_in_long(text: str) -> set[UUID]:
    return named_in(text, IDS)


def test_letter_keeps_the_events_of_who_is_called_alike() -> None:
    events = [{"user_id": name, "messages": "many"} for name in ('a"b', "a")]
    shared = json.dumps({"positions": [3, 5], "events": events})
    letter = {"reason": "messages: is no number", "payload": shared, "events": 2, "position": 3}
    letter |= {"stream": "usage:events:{0}", "entry_id": "1-0", "entry_key": uuid4()}
    left = without(letter, frozenset({user("a")}), IDS)
    assert left
    assert (left["events"], left["position"], json.loads(left["payload"])) == (1, 3, events[0])
    assert without(letter, frozenset({user("b")}), IDS) is letter
