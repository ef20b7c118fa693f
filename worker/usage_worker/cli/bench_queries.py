"""`usage-worker bench queries`: the time of users' queries and the size of a row, on each version of the schema."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from usage_worker.bench.queries import BOUND_MS, measure_queries
from usage_worker.cli.outcome import AsJson, run_shown

if TYPE_CHECKING:
    from usage_worker.bench.queries import QueriesResult

ROWS = 100_000

Rows = Annotated[
    list[int] | None,
    typer.Option(min=1_000, help="Rows in user_agents; repeat the option for several sizes.", show_default=str(ROWS)),
]


def queries(rows: Rows = None, as_json: AsJson = False) -> None:
    """Time the queries of a user's own pages under row-level security, on each version of the schema."""
    run_shown(partial(measure_queries, rows or [ROWS]), _show, as_json=as_json)


def _show(result: QueriesResult) -> None:
    table = Table("schema", "rows", "query", "p50 ms", "p95 ms", "plan", box=None)
    sizes = Table("schema", "rows", "bytes per row", "index bytes per row", box=None)
    for column in (*table.columns[3:5], *sizes.columns[1:], table.columns[1]):
        column.justify = "right"
    for version, measurements in result.versions.items():
        for rows, measured in measurements.items():
            sizes.add_row(version, f"{rows:,}", f"{measured.bytes_per_row:,}", f"{measured.index_bytes_per_row:,}")
            for name, timing in measured.queries.items():
                times = f"{timing.p50_ms:.2f}", f"{timing.p95_ms:.2f}"
                table.add_row(version, f"{rows:,}", name, *times, timing.plan)
    console = Console(highlight=False)
    verdict = "below" if result.exact else "NOT below"
    for part in (sizes, table, f"slowest p95: {result.worst_p95_ms:.2f} ms, {verdict} {BOUND_MS:.0f} ms"):
        console.print(part)
