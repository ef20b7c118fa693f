"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.maintenance.task_run import OnProgress

LINE_SECONDS = 5.0

log = get_logger("progress")


@contextmanager
def shown(what: str) -> Iterator[OnProgress]:
    """Show the progress that is reported until the block ends, on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _in_lines(what)
        return
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _in_lines(what: str) -> OnProgress:
    last = time.monotonic()

    def on_progress(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            log.info(what, done=done, of=total)

    return on_progress
