"""The command `usage-worker`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from usage_worker.cli.commands import CommandGroup
from usage_worker.cli.output import EXIT_PROBLEM, echo, prepare_output
from usage_worker.errors import UsageError
from usage_worker.interrupts import EXIT_INTERRUPTED
from usage_worker.logs import configure_from_environment, report_failure

cli = typer.Typer(
    cls=CommandGroup,
    help="Count what users do with AI agents: exactly once, in batches, off the request path.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"usage-worker {version('usage-worker')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@cli.callback()
def options(_version: Version = False) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command; print an error as one line on standard error, and exit with 1 then.

    A command that is not written as its help says exits with 2.
    """
    prepare_output()
    configure_from_environment()
    try:
        sys.exit(cli(standalone_mode=False))
    except UsageError as error:
        report_failure(str(error))
        sys.exit(EXIT_PROBLEM)
    except typer.Abort as error:
        # At a question: Ctrl-C, or the end of the input.
        sys.exit(EXIT_INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else EXIT_PROBLEM)
    except typer.TyperException as error:
        _report_misuse(error)
        sys.exit(getattr(error, "exit_code", EXIT_PROBLEM))


def _report_misuse(error: typer.TyperException) -> None:
    """Say what is wrong with the command line; nothing where its help was printed instead."""
    context = getattr(error, "ctx", None)
    text = error.format_message().rstrip(".")
    if text:
        report_failure(f"{text}; see `{context.command_path} --help`" if context else text)
