"""How a value in any notation becomes the value of a field: one table of values for every entry point.

A value that already has the type of its field never comes here: pydantic accepts it first (see `Reading`), in a tenth
of the time. JSON is read by `read_json`, so that a number in it is never text, and never passes through a binary float.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from numbers import Rational, Real
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from usage_worker.events.columns import DECIMALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler

_LAST_DECIMAL = Decimal("1E-10")
# Characters of a number: more than the exact decimal form of any usual price, few enough to read in microseconds.
MAX_NUMBER_LENGTH = 1_000
# Beyond the bounds of every field, in either direction; work on larger numbers would grow with their digits.
_HUGE = 10**30
# An exponent of more digits moves every number of the greatest length beyond all bounds, or to zero.
_MAX_EXPONENT_DIGITS = 5
# Digits of an integer that JSON readers everywhere keep; Python refuses to read thousands.
_MAX_INTEGER_DIGITS = 20

# ASCII only, no sign but a minus. The quantifiers are possessive, so that no text takes more than one pass.
_NUMBER = re.compile(r"(-?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++))(?:[eE]([+-]?)(?=[0-9])0*+([0-9]*+))?")
_NOT_FINITE = ("nan", "inf", "infinity")
_TRUTH = {"true": True, "false": False}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = int((datetime.max.replace(tzinfo=UTC) - EPOCH).total_seconds())
# An application may have changed the context of its thread.
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[])


@dataclass(frozen=True, slots=True)
class Reading:
    """An annotation: accept a clean value as it is; read any other, and check the result like a clean one.

    Attributes:
        read: returns the value of the field, or raises a pydantic error; None where no other value can be read.
        default: what an unknown value (None) stands for, where the field does not take None.
        canonical: pattern of texts that are accepted as they are, without a detour through a number.
    """

    read: Callable[[Any], Any] | None = None
    default: Any = None
    canonical: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Return the union of the clean type and of what is read."""
        clean = handler(source)
        read = core_schema.no_info_before_validator_function(self._read, clean)
        texts = [] if self.canonical is None else [core_schema.str_schema(pattern=self.canonical)]
        return core_schema.union_schema([*texts, clean, read], mode="left_to_right")

    def _read(self, value: Any) -> Any:
        if value is None:
            return self.default
        return value if self.read is None else self.read(value)


def read_count(value: Any) -> int:
    """Read a whole number; a float or a text may be one, a boolean is not."""
    number = _number(value, "int_type")
    if number.adjusted() > _MAX_INTEGER_DIGITS:
        return _HUGE if number > 0 else -_HUGE
    if number != (whole := int(number)):
        raise PydanticKnownError("int_from_float")
    return whole


def read_milliseconds(value: Any) -> int:
    """Read milliseconds, rounded half-even to whole ones."""
    return int(_rounded(_number(value, "int_type"), Decimal(1)))


def read_decimal(value: Any) -> Decimal:
    """Read money or a rating, rounded half-even to `DECIMALS`; a float is read by its shortest decimal form."""
    # Pydantic's words for the type would ask for a string, also where one was given.
    return _rounded(_number(value, "decimal_parsing"), _LAST_DECIMAL)


def read_truth(value: Any) -> bool:
    """Read a boolean: true, false, 1 and 0, also as text in any case."""
    number = decimal_of(value)
    if number is None:
        truth = _TRUTH.get(str(value).lower())  # also numpy's
    else:
        truth = bool(number) if number.is_finite() and number in (0, 1) else None
    if truth is None:
        raise PydanticKnownError("bool_parsing")
    return truth


def read_time(value: Any) -> datetime:
    """Read a time: a text of ISO 8601 with a time zone, or seconds since 1970, rounded to microseconds."""
    time = datetime_of(value)
    if time.tzinfo is None or time.utcoffset() is None:
        raise PydanticKnownError("timezone_aware")
    return time


def datetime_of(value: Any) -> datetime:
    """Read a time like `read_time`, but with or without a time zone."""
    if isinstance(value, datetime):
        return value
    number = decimal_of(value)
    if number is not None and number.is_finite():
        return _time_of(number)
    reason = ""
    if isinstance(value, str) and value.isascii():
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError as error:
            # Some messages quote the value.
            reason = "" if "'" in str(error) else f" ({error})"
    message = "is not a time; write it like 2026-01-31T23:59:59Z, or as seconds since 1970{reason}"
    raise PydanticCustomError("time", message, {"reason": reason})


def decimal_of(value: Any) -> Decimal | None:
    """Return the value of a number in any notation, exactly where it has a decimal form, or None."""
    match value:
        case bool():
            return None
        case Decimal():
            return value
        case float():
            return Decimal(float.__repr__(value))
        case Rational():
            return _decimal_of_rational(value)
        case str() | Real():  # numpy's numbers are Real, and their conversion to float would add digits
            return _decimal_of_text(str(value))
    return None


def read_json(text: str | bytes) -> Any:
    """Parse JSON; numbers that may not fit an integer or a float are decimals, and longer ones than we read are text.

    Raises:
        ValueError, RecursionError: it cannot be parsed.
    """
    return json.loads(text, parse_float=_json_number, parse_int=_json_integer)


def json_decoder() -> json.JSONDecoder:
    """Return a decoder that reads like `read_json`."""
    return json.JSONDecoder(parse_float=_json_number, parse_int=_json_integer)


def write_json(value: Any) -> str:
    """Return what `read_json` has read as JSON again; its numbers stay numbers, with all their digits."""
    try:
        return _written(value)
    except RecursionError:  # the parser of some versions of Python goes deeper than functions do
        return json.dumps(value, default=str)


def units_of(number: Decimal | str | None) -> int | None:
    """Return a decimal, which has `DECIMALS` decimals at most, as an integer of its last one."""
    return None if number is None else int(_CONTEXT.scaleb(Decimal(number), DECIMALS))


def decimal_text(units: int) -> str:
    """Return the canonical text of a decimal, given in units of its last place: no exponent, no zeros at the end."""
    return format(_CONTEXT.normalize(_CONTEXT.scaleb(Decimal(units), -DECIMALS)), "f")


def _written(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value)


def _json_integer(digits: str) -> int | Decimal | str:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else _json_number(digits)


def _json_number(text: str) -> Decimal | str:
    number = _decimal_of_text(text)
    return text if number is None else number


def _decimal_of_text(text: str) -> Decimal | None:
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_LENGTH else None
    if match is None:
        return Decimal("NaN") if text.lower().lstrip("-") in _NOT_FINITE else None
    digits, sign, exponent = match.groups()
    if not exponent:
        return Decimal(digits)
    return Decimal(f"{digits}e{sign}{exponent if len(exponent) <= _MAX_EXPONENT_DIGITS else 10**_MAX_EXPONENT_DIGITS}")


def _decimal_of_rational(number: Rational) -> Decimal:
    top, bottom = int(number.numerator), int(number.denominator)
    if abs(top) > _HUGE * bottom:
        return Decimal(_HUGE if top > 0 else -_HUGE)
    return _CONTEXT.divide(Decimal(top), Decimal(bottom))


def _number(value: Any, problem: Any) -> Decimal:
    number = decimal_of(value)
    if number is None:
        if isinstance(value, str) and len(value) > MAX_NUMBER_LENGTH:
            raise PydanticCustomError(
                "number_length", "a number may have at most {most} characters", {"most": MAX_NUMBER_LENGTH}
            )
        raise PydanticKnownError(problem)
    if not number.is_finite():
        raise PydanticKnownError("finite_number")
    # Also of a zero with an exponent, and of a negative zero.
    return number or Decimal(0)


def _rounded(number: Decimal, step: Decimal) -> Decimal:
    """Round half-even to multiples of `step`; a number that is rounded to zero has no sign."""
    if number.adjusted() > _MAX_INTEGER_DIGITS:
        return Decimal(_HUGE).copy_sign(number)
    return _CONTEXT.quantize(number, step) or Decimal(0)


def _time_of(seconds: Decimal) -> datetime:
    if seconds.copy_abs() > _LAST_SECOND:
        raise PydanticCustomError(
            "seconds", "outside the acceptance window: a number is a time in seconds since 1970, not in milliseconds"
        )
    try:
        return EPOCH + timedelta(microseconds=int(_rounded(_CONTEXT.scaleb(seconds, 6), Decimal(1))))
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
