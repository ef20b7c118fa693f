"""`usage-worker bench`: compare the product with the ceiling and with what one might build instead, in one run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from usage_worker.bench.load import AGENTS
from usage_worker.bench.run import MIXES, BenchSize, run_bench
from usage_worker.cli.bench_purge import purge
from usage_worker.cli.bench_queries import queries
from usage_worker.cli.bench_search import search
from usage_worker.cli.bench_sizing import sizing
from usage_worker.cli.bench_soak import soak
from usage_worker.cli.outcome import AsJson, run_shown, totals_verdict

if TYPE_CHECKING:
    from usage_worker.bench.result import BenchResult

Events = Annotated[int, typer.Option(min=1_000, help="Events of every other path, per mix.")]
NaiveEvents = Annotated[int, typer.Option(min=10, help="Events of the naive path (one task per event), per mix.")]
Pairs = Annotated[int, typer.Option(min=10, help="Rows in user_agents.")]
PacedSeconds = Annotated[
    float, typer.Option(min=1, help="Seconds of the latency measurement, at half the maximum rate.")
]

PATHS = {
    "prepared": "bare COPY of prepared rows",
    "ceiling": "bare COPY",
    "naive": "one task per event",
    "plain_copy_rollup": "COPY and roll-up without a queue",
    "product": "usage-worker",
}
PROCESSES = {"publisher": "application", "worker": "worker", "valkey": "Valkey", "database": "PostgreSQL"}

app = typer.Typer(
    help="Measure throughput and latency, the cost of an event, a long run, users' queries, searches, or a purge."
)
for command in (soak, sizing, queries, search, purge):
    app.command()(command)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    events: Events = 1_000_000,
    naive_events: NaiveEvents = 3_000,
    pairs: Pairs = 100_000,
    paced_seconds: PacedSeconds = 15,
    as_json: AsJson = False,
) -> None:
    """Measure the ceiling, one task per event (naive), a COPY and roll-up without a queue, and the product.

    All on the same servers with the same events; every total is checked.
    """
    if context.invoked_subcommand is not None:
        return
    size = BenchSize(events, naive_events, pairs // AGENTS, paced_seconds)
    run_shown(partial(run_bench, size), _show, as_json=as_json)


def _show(result: BenchResult) -> None:
    table = Table("", *MIXES, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for path, label in PATHS.items():
        table.add_row(f"{label}, events/s", *(f"{result.events_per_second[path][mix]:,.0f}" for mix in MIXES))
    table.add_row("  times one task per event", *(f"{result.ratio_to_naive[mix]:.0f}" for mix in MIXES))
    table.add_row("  times COPY and roll-up", *(f"{result.ratio_to_plain_copy_rollup[mix]:.2f}" for mix in MIXES))
    table.add_row("  share of the bare COPY", *(f"{result.ratio_to_copy[mix]:.2f}" for mix in MIXES))
    table.add_row("  share of that of prepared rows", *(f"{result.ratio_to_prepared_copy[mix]:.2f}" for mix in MIXES))
    table.add_row("  WAL bytes per event", *(f"{result.wal_bytes_per_event[mix]:,.0f}" for mix in MIXES))
    _add_cpu_rows(table, "usage-worker", result.cpu_seconds_per_1000_events)
    _add_cpu_rows(table, "COPY and roll-up", result.plain_copy_rollup_cpu_seconds_per_1000_events)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "event to visible at half the maximum rate: "
        f"p50 {result.visible_p50_ms:,.0f} ms, p99 {result.visible_p99_ms:,.0f} ms\n"
        f"a call of track at that rate: p50 {result.track_p50_us:.1f} µs, p99 {result.track_p99_us:.1f} µs\n"
        f"HOT updates: {result.hot_ratio:.1%}; {totals_verdict(result)}\n"
        + ", ".join(f"{name} {value}" for name, value in result.machine.items())
    )


def _add_cpu_rows(table: Table, path: str, costs: dict[str, dict[str, float]]) -> None:
    """Add the CPU time of a path, in all and by process, without processes that it does not have."""
    table.add_row(f"{path}, CPU s per 1,000 events", *(f"{costs[mix]['total']:.4f}" for mix in MIXES))
    for process, label in PROCESSES.items():
        if any(costs[mix][process] for mix in MIXES):
            table.add_row(f"  {label}", *(f"{costs[mix][process]:.4f}" for mix in MIXES))
