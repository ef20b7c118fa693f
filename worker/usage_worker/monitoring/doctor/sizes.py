"""How sizes are written."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_THREE_DIGITS = 100


def size(number: float) -> str:
    """Return bytes in the largest unit of which there is at least one, such as 1.5 GiB."""
    unit = 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{number:.3g} {_UNITS[unit]}" if number < _THREE_DIGITS else f"{number:,.0f} {_UNITS[unit]}"
