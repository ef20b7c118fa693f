"""`usage-worker new-key`: a key for programs that speak HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from usage_worker.cli.output import print_json, print_rows

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who uses the key; the log names it.")]
MayRead = Annotated[bool, typer.Option("--read", help="A key that reads totals, instead of one that sends events.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print key and entry as JSON.")]


def new_key(name: Name, read: MayRead = False, as_json: AsJson = False) -> None:
    """Make a key for `usage-worker serve`, and print it once, with its entry for USAGE_API_KEYS.

    The entry has the key's SHA-256 only; entries of several keys stand there with commas between them.
    """
    from usage_worker.http.keys import Right, make_key  # noqa: PLC0415 - its packages are of an extra of their own

    key, entry = make_key(name, Right.READ if read else Right.WRITE)
    if as_json:
        print_json({"key": key, "entry": str(entry)})
        return
    print_rows((), [("key", key), ("entry", str(entry))])
