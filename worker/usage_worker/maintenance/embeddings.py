"""The task `analytics.embed`: give a vector to each agent whose text is new or has changed.

What lacks a vector is found by comparing hashes, so nothing is lost when a run is killed: the next one goes on. Texts
are embedded outside of any transaction. Two runs at once do some work twice and harm nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.embedders import embedder_of, errors_as, unit_vectors
from usage_worker.errors import (
    EmbedderError,
    ExtraMissingError,
    SettingsError,
    TextRefusedError,
    first_line,
)
from usage_worker.logs import get_logger
from usage_worker.maintenance.deadline import Deadline
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.search import (
    Embedding,
    add_model,
    embedding_status,
    set_aside,
    set_default_model,
    set_model_ready,
    stale_agents,
    store_embeddings,
)
from usage_worker.store.task_runs import last_runs
from usage_worker.store.vector_index import ensure_vector_indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.embedders import Embedder
    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store
    from usage_worker.store.search import AgentText, EmbeddingStatus

EMBED = "analytics.embed"
# Half of the interval of beat, which leaves the worker to the other tasks for the rest.
BUDGET_SECONDS = 30.0
# Finding them reads all agents, 0.2 s for 100,000; embedding so many takes about 5 s.
PAGE_ROWS = 512
INDEX_PAUSE = timedelta(hours=1)

log = get_logger("maintenance")


@dataclass(slots=True)
class EmbedReport:
    """What a run did and what it left; filled as it goes on, so that it can be read after an interruption."""

    model: str = ""
    embedded: int = 0
    refused: int = 0
    """Number of texts that could not be embedded in this run; each is tried again later."""
    pending: int = 0
    """Number of agents without a vector of their present text."""
    failed: int = 0
    """Number of agents whose text could not be embedded so far."""
    pending_since: str | None = None
    """End of the first run, by a worker or a command, that left some pending, if all since then have."""
    index_failed_at: str | None = None
    """When an index could not be built or dropped; a worker tries again an hour later."""
    problem: str = ""
    """Why the embedder could not be used."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def embed(
    store: Store,
    embedder: Embedder,
    budget: float | None = None,
    *,
    becomes_default: bool = False,
    on_progress: OnProgress = lambda _done, _total: None,
    report: EmbedReport | None = None,
) -> EmbedReport:
    """Embed what is stale. When nothing is, the model is ready: searches may use it.

    Not where it can embed less than half of the agents; a model that was ready stays so.

    Args:
        store: the database.
        embedder: makes the vectors; the model is added to the database if it is not there.
        budget: seconds after which the run ends; by default it ends when nothing is stale.
        becomes_default: whether searches that name no model use this one as soon as it is ready. The first model
            becomes the default in any case.
        on_progress: called after each batch.
        report: the report to fill.

    Raises:
        BusyError: another process is indexing vectors.
        EmbedderError: the embedder does not work; nothing is wrong with the texts.
        StoreUnavailableError: the rest is left to the next run.
    """
    report = report or EmbedReport()
    with errors_as(EmbedderError, "the embedder does not tell its model and dimension"):
        report.model, dimension = embedder.model, embedder.dimension
    add_model(store, report.model, dimension)
    run = _EmbedRun(store, embedder, Deadline(budget), report, on_progress)
    try:
        is_done = run.embed_all()
    finally:
        status = _status(store, report.model)
        report.pending, report.failed = status.pending, status.failed
        if report.pending:
            report.pending_since = _last_said(store, "pending_since") or _now()
    if is_done and _has_most(status):
        set_model_ready(store, report.model)
        if becomes_default:
            set_default_model(store, report.model)
    _index(store, report, by_hand=budget is None)
    return report


def run_embed(store: Store, settings: Settings) -> dict[str, Any]:
    """Embed agents that are new or have changed, if there is an embedder."""
    report = EmbedReport()
    return run_task(store, EMBED, partial(_run, store, settings, report), partial_report=report)


def _run(store: Store, settings: Settings, report: EmbedReport) -> EmbedReport:
    """Embed within the budget; what is wrong with the embedder is for the status to say, not an error of the task."""
    try:
        embedder = embedder_of(settings)
        if embedder is None:
            raise SettingsError("USAGE_EMBEDDER is not set")
        embed(store, embedder, BUDGET_SECONDS, becomes_default=True, report=report)
    except (EmbedderError, ExtraMissingError) as error:
        report.problem = str(error)
        log.warning("agents cannot be embedded", reason=report.problem)
        report.pending_since = _last_said(store, "pending_since") or _now()
        report.index_failed_at = _last_said(store, "index_failed_at")
    return report


def _last_said(store: Store, name: str) -> str | None:
    run = last_runs(store).get(EMBED)
    return run.report.get(name) if run else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _has_most(status: EmbeddingStatus) -> bool:
    """Return whether a service that refuses every text, or a broken model, is not what made the vectors."""
    return status.failed <= status.embedded


def _status(store: Store, model: str) -> EmbeddingStatus:
    (status,) = (it for it in embedding_status(store) if it.model == model)
    return status


def _index(store: Store, report: EmbedReport, *, by_hand: bool) -> None:
    """Index the vectors. A failure costs minutes, so workers build and drop nothing for an hour after one."""
    failed_at = None if by_hand else _last_said(store, "index_failed_at")
    rests = failed_at is not None and datetime.now(UTC) - datetime.fromisoformat(failed_at) < INDEX_PAUSE
    report.index_failed_at = failed_at if rests else None  # also where another process is at work
    indexes = ensure_vector_indexes(store, EMBED, may_alter=not rests)
    if indexes.failed:
        report.index_failed_at = _now()
    for note in indexes.notes:
        log.warning("searches over many agents are slow, or go by words alone", reason=note)


class _EmbedRun:
    """One run and its limits."""

    def __init__(
        self, store: Store, embedder: Embedder, deadline: Deadline, report: EmbedReport, on_progress: OnProgress
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._deadline = deadline
        self._report = report
        self._on_progress = on_progress

    def embed_all(self) -> bool:
        """Embed page by page. Returns whether nothing is stale, except texts that are set aside."""
        size, total = self._embedder.batch_size, 0
        while page := stale_agents(self._store, self._embedder.model, PAGE_ROWS):
            if not total:
                total = len(page) if len(page) < PAGE_ROWS else _status(self._store, self._embedder.model).pending
            for start in range(0, len(page), size):
                self._embed(page[start : start + size])
                if self._deadline.is_over:
                    return False
                done = self._report.embedded + self._report.refused
                self._on_progress(done, max(done, total))
        return True

    def _embed(self, texts: Sequence[AgentText]) -> None:
        """Embed some texts; where one cannot be embedded, find it by halving."""
        try:
            vectors = unit_vectors(self._embedder, [it.text or "-" for it in texts])
        except TextRefusedError as error:
            if len(texts) == 1:
                self._set_aside(texts[0], error)
            elif not self._deadline.is_over:
                middle = len(texts) // 2
                self._embed(texts[:middle])
                self._embed(texts[middle:])
            return
        rows = zip(texts, vectors.tolist(), strict=True)
        embeddings = [Embedding(text.agent_id, text.content_hash, vector) for text, vector in rows]
        self._report.embedded += retry(partial(store_embeddings, self._store, self._embedder.model, embeddings))

    def _set_aside(self, text: AgentText, error: TextRefusedError) -> None:
        retry(partial(set_aside, self._store, self._embedder.model, text, first_line(error)))
        self._report.refused += 1
