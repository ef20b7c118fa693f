"""`usage-worker bench search`: the time of searches over agents, and which of the nearest they find."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usage_worker.bench.search import WANTED_RECALL, measure_search
from usage_worker.cli.outcome import AsJson, run_shown
from usage_worker.cli.output import make_table

if TYPE_CHECKING:
    from usage_worker.bench.search import SearchTimings

AGENTS = 10_000
HEADINGS = ("agents", "search", "p50 ms", "p95 ms", "recall@10")

Agents = Annotated[
    list[int] | None,
    typer.Option(min=100, help="Number of agents; repeat the option for several sizes.", show_default=str(AGENTS)),
]


def search(agents: Agents = None, as_json: AsJson = False) -> None:
    """Time searches over agents with vectors of 384 dimensions under row-level security, and count what they miss."""
    run_shown(partial(measure_search, agents or [AGENTS]), _show, as_json=as_json)


def _show(result: SearchTimings) -> None:
    rows = [
        (
            f"{agents:,}",
            name,
            f"{timing.p50_ms:.1f}",
            f"{timing.p95_ms:.1f}",
            "" if timing.recall is None else f"{timing.recall:.3f}",
        )
        for agents, timings in result.sizes.items()
        for name, timing in timings.items()
    ]
    console = Console(highlight=False)
    console.print(make_table(HEADINGS, rows, figures={*HEADINGS} - {"search"}))
    console.print(f"recall of searches by vector: {'at least' if result.exact else 'NOT at least'} {WANTED_RECALL}")
