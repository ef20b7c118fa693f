"""docs/reference/commands.md, from the command line's own definition."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from tools.reference.annotations import type_words
from tools.reference.markdown import code, table
from usage_worker.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Commands

A command that fails prints one line on standard error and exits with 1; one that a signal ended exits with 130. Every
command has `-h` and `--help`. Wrong options or arguments exit with 2.
`usage-worker --install-completion` lets the shell (bash, zsh, fish) complete commands and options.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *_sections("usage-worker", typer.main.get_command(cli))])


def _sections(name: str, command: Any) -> Iterator[str]:
    """Yield a section for a command, then those of its subcommands."""
    yield f"## `{name}`\n\n{inspect.cleandoc(command.help)}\n"
    if command.params:
        hints = get_type_hints(command.callback)
        rows = [_row(parameter, hints.get(parameter.name, bool)) for parameter in command.params]
        yield table(("option", "value", "default", "meaning"), rows)
    for subcommand in getattr(command, "commands", ()):
        yield from _sections(f"{name} {subcommand}", command.get_command(None, subcommand))


def _row(parameter: Any, annotation: Any) -> tuple[str, str, str, str]:
    value = "" if annotation is bool else type_words(annotation).removesuffix(" or null")
    limits = [
        words.format(limit)
        for words, limit in (("at least {:,}", parameter.min), ("at most {:,}", parameter.max))
        if limit is not None
    ]
    return code(_label(parameter)), ", ".join([value, *limits]), _default(parameter), parameter.help


def _label(parameter: Any) -> str:
    """Return the option, or the argument, as a user types it."""
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    metavar = parameter.metavar or ""
    return f"{names} {metavar}".strip() if parameter.param_type_name == "option" else metavar or names.upper()


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return code(parameter.show_default)
    if parameter.default is True:
        return code(parameter.opts[0])
    return "" if parameter.default is None or parameter.default is False else code(parameter.default)
