"""Types, bounds and meanings, read from annotated classes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    Decimal: "decimal",
    UUID: "UUID",
    datetime: "time",
    AwareDatetime: "time with UTC offset",
    Path: "path",
    NoneType: "null",
}
# Constraint of pydantic or annotated_types, and how it reads.
_CONSTRAINTS = {
    "ge": "at least {:,}",
    "gt": "more than {:,}",
    "le": "at most {:,}",
    "lt": "less than {:,}",
    "min_length": "length at least {:,}",
    "max_length": "length at most {:,}",
    "decimal_places": "at most {} decimals",
    "pattern": "matches `{}`",
}


def type_words(annotation: Any) -> str:
    """Return what a value may be, in words.

    Raises:
        KeyError: the type has no word yet.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Required):
        return type_words(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(type_words, arguments))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"{type_words(arguments[0])}, repeatable"
    return _WORDS[annotation]


def bounds(annotation: Any) -> str:
    """Return the constraints of a type, those of each alternative included."""
    if isinstance(annotation, FieldInfo):
        return _joined(map(bounds, annotation.metadata))
    if get_origin(annotation) in (Annotated, Required, Union, UnionType):
        return _joined(map(bounds, get_args(annotation)))
    return _joined(
        words.format(limit)
        for name, words in _CONSTRAINTS.items()
        if (limit := getattr(annotation, name, None)) is not None
    )


def meanings(cls: type) -> dict[str, str]:
    """Return the docstring below each annotated attribute of a class.

    Raises:
        ValueError: an attribute has none.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for attribute, below in pairwise(body):
        match attribute, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = text
            case ast.AnnAssign(target=ast.Name(name)), _:
                raise ValueError(f"{cls.__name__}.{name} has no docstring below it")
    return found


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(filter(None, parts))
