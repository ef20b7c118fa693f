"""`usage-worker migrate`: move the database schema between versions, print scripts, show the state, verify it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from usage_worker.cli.confirmation import confirm, require_terminal
from usage_worker.cli.output import EXIT_PROBLEM, Form, echo, print_json, print_rows, write
from usage_worker.errors import SettingsError
from usage_worker.migrate import EMPTY, Runner, discover, latest_version
from usage_worker.migrate.adoption import adopt, examine
from usage_worker.migrate.connection import DIRECT_URL
from usage_worker.migrate.repair import repair
from usage_worker.migrate.script import script
from usage_worker.settings import load_settings
from usage_worker.wording import counted, moment, short_milliseconds

if TYPE_CHECKING:
    from usage_worker.migrate import Kept, Migration, SchemaStatus, Step
    from usage_worker.migrate.adoption import Adoptable
    from usage_worker.migrate.obstacles import Obstacle
    from usage_worker.migrate.repair import Repaired

app = typer.Typer(help="Move the database schema between versions.", no_args_is_help=True)

To = Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Stop at this version.", show_default="latest")]
DownTo = Annotated[
    str,
    typer.Option("--to", metavar="VERSION", help=f"Roll back to this version; {EMPTY} removes everything."),
]
From = Annotated[str, typer.Option("--from", metavar="VERSION", help=f"The installed version; {EMPTY} means none.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; required without a terminal.")]
Check = Annotated[
    bool,
    typer.Option("--check", help="Change nothing: name everything that is in the way; exit with 1 if something is."),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Refuse a database that does not have this version.",
        show_default="recognized",
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for another run to end, or fail at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_WAITING = "waiting for another migration of this database to end"
_STYLES = {"applied": "green", "pending": "dim", "running": "yellow", "failed": "red", "edited": "red"}


@app.command()
def up(to: To = None, check: Check = False, wait: Wait = True, as_json: AsJson = False) -> None:
    """Apply the missing migrations. Safe to repeat, to run twice at once and to kill."""
    runner = _runner()
    if check:
        _show_obstacles(runner.check(to), as_json=as_json)
        return
    moved = runner.up(to, wait=wait, on_step=None if as_json else _on_step)
    _show_outcome(runner, moved, as_json=as_json)
    # Applied migrations are not run again, so what others dropped or changed stays so.
    if found := runner.verify():
        what = "is missing or differs" if len(found) == 1 else "are missing or differ"
        echo(f"{counted(len(found), 'object')} {what}; run `usage-worker migrate repair`", err=True)


@app.command()
def down(to: DownTo, yes: Yes = False, wait: Wait = True, as_json: AsJson = False) -> None:
    """Roll back to an older version. Keeps rows aside for the next upgrade; asks first, with the number of rows."""
    runner = _runner()
    if not yes:
        _confirm_down(runner, to)
    moved = runner.down(to, wait=wait, on_step=None if as_json else _on_step)
    _show_outcome(runner, moved, as_json=as_json)


@app.command("sql")
def print_sql(start: From = EMPTY, to: To = None) -> None:
    """Print one psql script that does what up or down would do; needs no database."""
    write(script(discover(), start, to or latest_version()))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the version and the state of each migration."""
    found = _runner().status()
    if as_json:
        print_json(
            {
                "version": found.version,
                "partial_version": found.partial_version,
                "latest": found.latest,
                "migrations": [asdict(m) for m in found.migrations],
            }
        )
    else:
        _show_status(found)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Compare the database with what its migrations have created; exit with 1 if it differs."""
    runner = _runner()
    found = runner.verify()
    where = runner.status()
    if as_json:
        print_json({"version": where.version, "deviations": [asdict(deviation) for deviation in found]})
    elif found:
        rows = [(deviation.kind, deviation.object, deviation.problem) for deviation in found]
        print_rows(("kind", "object", "problem"), rows)
    else:
        echo(f"the schema is {where}, as it should be")
    if found:
        raise typer.Exit(EXIT_PROBLEM)


@app.command("adopt")
def adopt_schema(version: Version = None, yes: Yes = False, wait: Wait = True, as_json: AsJson = False) -> None:
    """Take over a database that the history's own SQL, or psql with our files, has made; asks first.

    Completes it and records its version. No rollback drops its tables and columns. Exits with 1 if verify still reports
    something, such as a policy that others added.
    """
    url = _database_url()
    if not yes:
        _confirm_adoption(examine(url, version))
    done = adopt(url, version, wait=wait, waiting=_on_waiting, retrying=_on_retry)
    _show_repaired(done, f"the schema is {Runner(url).status()}; nothing was missing", as_json=as_json)


@app.command("repair")
def repair_schema(wait: Wait = True, as_json: AsJson = False) -> None:
    """Recreate what verify reports as missing or changed. Changes no row; exits with 1 if something is left."""
    done = repair(_database_url(), wait=wait, waiting=_on_waiting, retrying=_on_retry)
    _show_repaired(done, "nothing to do: the schema is as it should be", as_json=as_json)


def _runner() -> Runner:
    return Runner(_database_url())


def _database_url() -> str:
    settings = load_settings()
    if settings.pooled:
        raise SettingsError(f"USAGE_POOLED is set; {DIRECT_URL}")
    return settings.require_database()


def _confirm_down(runner: Runner, to: str) -> None:
    """Show what the rollback keeps aside, and ask for confirmation."""
    found = runner.kept_by_down(to)
    if found is None:
        return
    what = f"down to {to} keeps aside {_kept_rows(found)}"
    require_terminal(what)
    confirm(f"{what}, for the next up")


def _confirm_adoption(found: Adoptable) -> None:
    """Show what differs, and ask for confirmation."""
    what = f"the database is adopted as {found}; {len(found.differs)} objects differ, and ours are completed"
    require_terminal(what)
    print_rows(("kind", "object", "problem"), [(it.kind, it.object, it.problem) for it in found.differs], err=True)
    confirm(what)


def _kept_rows(found: list[Kept]) -> str:
    parts = (
        f"{counted(kept.rows, 'row')} of {kept.table}{' (new columns)' if kept.only_columns else ''}" for kept in found
    )
    return ", ".join(parts) or "no rows"


def _on_waiting() -> None:
    echo(_WAITING, err=True)


def _on_retry(reason: str) -> None:
    echo(f"{reason}; trying again", err=True)


def _show_repaired(done: Repaired, nothing: str, *, as_json: bool) -> None:
    """Print what was made and what is left; exit with 1 if something is left."""
    if as_json:
        print_json({"made": [asdict(it) for it in done.made], "left": [asdict(it) for it in done.left]})
    else:
        rows = [("made", it.kind, it.object, it.problem) for it in done.made]
        rows += [("left", it.kind, it.object, it.problem) for it in done.left]
        if rows:
            print_rows(("", "kind", "object", "problem"), rows)
        else:
            echo(nothing)
    if done.left:
        raise typer.Exit(EXIT_PROBLEM)


def _on_step(step: Step) -> None:
    if step.migration is None:
        echo(_WAITING)
    elif step.event == "retrying":
        echo(f"  {step.migration.label}: {step.detail}; trying again")
    elif step.event == "done":
        echo(f"{step.direction:<5}{step.migration.label}  {step.migration.version}  {step.duration_ms} ms")


def _show_outcome(runner: Runner, moved: list[Migration], *, as_json: bool) -> None:
    where = runner.status()
    if as_json:
        print_json({"version": where.version, "migrations": [migration.label for migration in moved]})
    elif moved:
        echo(f"the schema is {where}")
    else:
        echo(f"nothing to do: the schema is {where}")


def _show_obstacles(found: list[Obstacle], *, as_json: bool) -> None:
    if as_json:
        print_json({"obstacles": [obstacle._asdict() for obstacle in found]})
    elif found:
        print_rows(("obstacle", "remedy"), found)
    else:
        echo("nothing is in the way")
    if found:
        raise typer.Exit(EXIT_PROBLEM)


def _show_status(found: SchemaStatus) -> None:
    rows = [
        (
            f"{migration.number:03d}_{migration.name}",
            migration.version,
            Text(migration.state, _STYLES.get(migration.state, "")),
            migration.started_at,
            migration.duration_ms,
        )
        for migration in found.migrations
    ]
    forms: dict[str, Form] = {"started": moment, "took": short_milliseconds}
    print_rows(("migration", "version", "state", "started", "took"), rows, forms=forms)
    echo(f"the schema is {found}; this code brings {found.latest}")
