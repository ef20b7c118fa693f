"""How numbers, times and names are written: numbers exactly in tables, rounded to three digits in sentences."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usage_worker.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN = "unknown"
# Longest name; a column for names takes 255 characters.
NAME_LENGTH = 255
# Numbers of at most four digits are not rounded.
_ROUNDED_FROM = 10_000
_LEAST_PERCENT = 0.01
_SECOND = 1000
_TWO_DIGITS = 100
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI = 1024
_THREE_DIGITS = 100
_LARGE = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
# As reports of tasks hold it.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d\Z")
# They are not printable, but join the parts of emoji and of Persian words.
_JOINERS = re.compile("([\u200c\u200d])")


def exact(number: int | None) -> str:
    """Return the whole number, with commas."""
    return UNKNOWN if number is None else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, whose plural ends with s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def exact_dollars(cost: Decimal | None) -> str:
    """Return the cost with all its decimals, at least two, and never with an exponent."""
    if cost is None:
        return UNKNOWN
    whole, _, decimals = f"{cost:,f}".partition(".")
    return f"${whole}.{decimals.rstrip('0'):0<2}"


def exact_milliseconds(duration: float | None) -> str:
    """Return milliseconds without a unit, with one decimal where there is one."""
    return UNKNOWN if duration is None else f"{duration:,.1f}".removesuffix(".0")


def percentage(part: float, whole: float = 1) -> str:
    """Return the percentage with two decimals; a part that is not 0 is not shown as 0."""
    if whole == 0:
        return UNKNOWN
    percent = 100 * part / whole
    return f"< {_LEAST_PERCENT} %" if 0 < percent < _LEAST_PERCENT else f"{percent:.2f} %"


def short(number: int | None) -> str:
    """Return the number for a sentence, such as 9,999 or 1.23 M."""
    if number is None:
        return UNKNOWN
    return f"{number:,}" if number < _ROUNDED_FROM else _short(number)


def short_dollars(cost: Decimal | float | None) -> str:
    """Return the cost for a sentence, such as $0.0012, $12.34 or $1.23 M."""
    if cost is None:
        return UNKNOWN
    if cost >= _ROUNDED_FROM:
        return f"${_short(cost)}"
    if cost >= 1 or not cost:
        return f"${cost:,.2f}"
    return exact_dollars(Decimal(f"{cost:.3g}"))


def short_milliseconds(duration: float | None) -> str:
    """Return the duration for a sentence, in milliseconds, or in seconds, minutes or hours of at most two digits."""
    if duration is None:
        return UNKNOWN
    if round(duration) < _SECOND:
        return f"{_short(duration)} ms"
    number, unit = duration / _SECOND, "s"
    for larger in ("min", "h"):
        if round(number) >= _TWO_DIGITS:
            number, unit = number / 60, larger
    return f"{_short(number)} {unit}"


def short_bytes(number: float) -> str:
    """Return the size for a sentence, in the largest unit of which there is at least one, such as 512 B or 1.5 GiB."""
    unit = 0
    # Rounded before the unit is chosen: 1,048,575 is 1 MiB, and not 1,024 KiB.
    while round(number) >= _KIBI and unit < len(_BYTES) - 1:
        number, unit = number / _KIBI, unit + 1
    return f"{number:.3g} {_BYTES[unit]}" if number < _THREE_DIGITS else f"{number:,.0f} {_BYTES[unit]}"


def figures_text(figures: Mapping[str, Any], *, zeros: bool = False) -> str:
    """Return the figures of a task's run in one line, without those that are empty, nor zeros unless asked for.

    Lists are counted.
    """
    shown = ((name, value) for name, value in figures.items() if value or (zeros and value == 0))
    return ", ".join(_figure(name, value) for name, value in shown) or "-"


def short_seconds(duration: float | None) -> str:
    """Return the duration for a sentence, such as 350 ms, 1.2 s or 3 min."""
    return short_milliseconds(None if duration is None else 1000 * duration)


def moment(time: datetime) -> str:
    """Return the second, with the name of its time zone."""
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def utc(time: datetime) -> str:
    """Return the minute in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def shown_name(name: str | None) -> str:
    """Return a name as it may be shown: printable and cut, unknown where there is none."""
    if name is None:
        return UNKNOWN
    cut = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3] + "..."
    pieces = _JOINERS.split(cut)
    if not any(piece.strip() for piece in pieces[::2]):
        return "(no name)"
    pieces[::2] = [printable(piece, NAME_LENGTH) for piece in pieces[::2]]
    return "".join(pieces)


def _figure(name: str, value: object) -> str:
    if isinstance(value, dict):
        value = " ".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, list):
        value = len(value)
    elif isinstance(value, str) and _TIME.match(value):
        value = moment(datetime.fromisoformat(value))
    return f"{name.removesuffix('_seconds')} {value}{' s' if name.endswith('_seconds') else ''}"


def _short(number: float | Decimal) -> str:
    # Rounded before the unit is chosen: 999,999 is 1 M, and not 1,000 k.
    rounded = float(f"{number:.3g}")
    for size, unit in _LARGE:
        if rounded >= size:
            return f"{rounded / size:,.10g} {unit}"
    return f"{rounded:g}"
