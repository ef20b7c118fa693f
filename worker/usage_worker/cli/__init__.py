"""The command `usage-worker`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from usage_worker.cli.anomalies import anomalies
from usage_worker.cli.bench import bench_app
from usage_worker.cli.bench_purge import purge as bench_purge
from usage_worker.cli.bench_queries import queries
from usage_worker.cli.bench_search import search as bench_search
from usage_worker.cli.bench_sizing import sizing
from usage_worker.cli.bench_soak import soak
from usage_worker.cli.correct import correct
from usage_worker.cli.dead_letters import dead_letters_app
from usage_worker.cli.demo import demo
from usage_worker.cli.doctor import doctor
from usage_worker.cli.drain import drain
from usage_worker.cli.forget import forget
from usage_worker.cli.metrics import metrics
from usage_worker.cli.migrate import migrate_app
from usage_worker.cli.new_key import new_key
from usage_worker.cli.output import EXIT_INTERRUPTED, EXIT_PROBLEM, echo, prepare_output
from usage_worker.cli.publish import publish
from usage_worker.cli.related import related
from usage_worker.cli.report import report
from usage_worker.cli.run import run_app
from usage_worker.cli.schedule import schedule
from usage_worker.cli.search import search
from usage_worker.cli.serve import serve
from usage_worker.cli.status import status
from usage_worker.cli.up import up
from usage_worker.errors import UsageError
from usage_worker.logs import configure_from_environment, report_failure

cli = typer.Typer(
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


for command in (
    demo,
    up,
    serve,
    new_key,
    publish,
    status,
    doctor,
    metrics,
    drain,
    correct,
    forget,
    schedule,
    report,
    related,
    anomalies,
    search,
):
    cli.command()(command)
bench_app.command()(soak)
bench_app.command()(sizing)
bench_app.command()(queries)
bench_app.command("search")(bench_search)
bench_app.command("purge")(bench_purge)
cli.add_typer(run_app, name="run")
cli.add_typer(bench_app, name="bench")
cli.add_typer(migrate_app, name="migrate")
cli.add_typer(dead_letters_app, name="dead-letters")


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
