"""`usage-worker run embed`: give vectors to agents now, without Celery, and say what each model has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.embedders import embedder_of
from usage_worker.errors import ArgumentError, SettingsError
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance.embeddings import EMBED, EmbedReport
from usage_worker.maintenance.embeddings import embed as embed_agents
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.search import embedding_status, retire_model
from usage_worker.wording import counted

if TYPE_CHECKING:
    from usage_worker.settings import Settings
    from usage_worker.store.search import EmbeddingStatus

NO_EMBEDDER = (
    "USAGE_EMBEDDER is not set; run pip install 'usage-worker[semantic]' and set USAGE_EMBEDDER=minilm,"
    " or USAGE_EMBEDDER=openai for a service"
)
HEADINGS = ("model", "dimension", "state", "default", "embedded", "pending", "failed")

Name = Annotated[
    str | None, typer.Option("--embedder", metavar="NAME", help="Use this embedder instead of USAGE_EMBEDDER.")
]
Status = Annotated[bool, typer.Option("--status", help="Show what each model has and lacks; embed nothing.")]
Retire = Annotated[str | None, typer.Option(metavar="MODEL", help="Delete the vectors of a model that is not used.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def embed(name: Name = None, status: Status = False, retire: Retire = None, as_json: AsJson = False) -> None:
    """Embed the agents whose name or description is new or has changed, and show the progress.

    A worker does the same once a minute. Ctrl-C stops it without harm. It exits with 1 while some texts cannot be
    embedded.
    """
    settings = load_settings()
    if name is not None:
        settings = settings.model_copy(update={"embedder": name})
    with Store.of(settings) as store:
        if retire is not None and status:
            raise ArgumentError("--status and --retire are not given together")
        if retire is not None:
            _retire(store, retire, as_json=as_json)
        elif status:
            _show_models(store, as_json=as_json)
        else:
            _embed(store, settings, as_json=as_json)


def _embed(store: Store, settings: Settings, *, as_json: bool) -> None:
    embedder = embedder_of(settings)
    if embedder is None:
        raise SettingsError(NO_EMBEDDER)
    report, done = EmbedReport(), dict[str, Any]()
    with leave_on_signal() as stop, shown("embedding agents") as on_progress:
        work = partial(embed_agents, store, embedder, on_progress=on_progress, report=report)
        done = run_task(store, EMBED, work, report)
    show = partial(_show, report, done.get("seconds"))
    figures, problem = report.as_dict() | done, bool(report.failed)
    finish(EMBED, done, show, as_json=as_json, interrupted=stop.is_set, figures=figures, problem=problem)


def _show(report: EmbedReport, seconds: float | None) -> None:
    refused = f"; {counted(report.failed, 'text')} cannot be embedded" if report.failed else ""
    duration = "" if seconds is None else f" in {seconds:.1f} s"
    embedded = f"{counted(report.embedded, 'agent')} embedded by {report.model}{duration}"
    echo(f"{embedded}, {report.pending:,} pending{refused}")


def _show_models(store: Store, *, as_json: bool) -> None:
    models = embedding_status(store)
    if as_json:
        names = (*HEADINGS[:3], "is_default", *HEADINGS[4:])
        print_json([{name: getattr(it, name) for name in names} for it in models])
    elif not models:
        echo("no model yet: nothing has been embedded")
    else:
        print_rows(HEADINGS, map(_cells, models), figures=("dimension", *HEADINGS[4:]), headings_in_lines=True)


def _cells(it: EmbeddingStatus) -> tuple[str, ...]:
    counts = (str(number) for number in (it.embedded, it.pending, it.failed))
    return it.model, str(it.dimension), it.state, "yes" if it.is_default else "", *counts


def _retire(store: Store, model: str, *, as_json: bool) -> None:
    known = {it.model: it for it in embedding_status(store)}
    if model not in known:
        raise ArgumentError(f"--retire: there is no model {model!r}; there are {', '.join(known) or 'none'}")
    if known[model].is_default:
        raise ArgumentError(f"--retire: searches use {model}; it can be retired when another model is the default")
    deleted = retire_model(store, model)
    if as_json:
        print_json({"model": model, "deleted": deleted})
    else:
        echo(f"{counted(deleted, 'vector')} of {model} deleted")
