"""Search over agents for a text: by its vector where an embedder can make one, and by its words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.embedders import embedder_of, errors_as, unit_vectors
from usage_worker.errors import EmbedderError, ExtraMissingError
from usage_worker.store.search import LONGEST_QUERY, LONGEST_TEXT, embedding_models, search_agents

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store
    from usage_worker.store.search import FoundAgent


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The agents that were found, best first.

    `model` made the vector of the query; where it is None, words and names alone were searched, and `reason` says why.
    """

    agents: list[FoundAgent]
    model: str | None
    reason: str = ""

    @property
    def is_close(self) -> bool:
        """Whether an agent has the words or is near in meaning; otherwise these are merely the least distant ones."""
        return any(agent.is_close for agent in self.agents)

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        agents = [agent._asdict() for agent in self.agents]
        return asdict(self) | {"agents": agents, "is_close": self.is_close}


def find_agents(store: Store, settings: Settings, text: str, k: int, user_id: UUID | None = None) -> SearchResult:
    """Find at most `k` agents for a text, with the rights of a user, or of this role.

    Raises:
        DataRefusedError: the text is longer than 10,000 characters, or `k` is not between 1 and 100.
        SettingsError: our role may not act as `authenticated`, or a setting of the embedder is wrong.
        StoreUnavailableError: PostgreSQL is not available.
    """
    if not text.strip():
        return SearchResult([], None, "the text is empty")
    # What the database will refuse is not sent to a service.
    model, vector, reason = _vector(store, settings, text) if len(text) <= LONGEST_QUERY else (None, None, "")
    found = search_agents(store, vector, text, k, model=model, user_id=user_id)
    return SearchResult(found.agents, None if found.limit else model, found.limit or reason)


def _vector(store: Store, settings: Settings, text: str) -> tuple[str | None, list[float] | None, str]:
    """Return the model and the vector of a text; or None twice and why there is none."""
    try:
        embedder = embedder_of(settings)
        if embedder is None:
            return None, None, "no embedder is set (USAGE_EMBEDDER)"
        with errors_as(EmbedderError, "the embedder does not tell its model"):
            model = embedder.model
        known = {it.model: it for it in embedding_models(store)}.get(model)
        if known is None or known.state != "ready":
            missing = "has embedded no agent yet" if known is None else f"is {known.state}"
            return None, None, f"{model} {missing}; run `usage-worker run embed`"
        (vector,) = unit_vectors(embedder, [text[:LONGEST_TEXT]])
    except (EmbedderError, ExtraMissingError) as error:
        return None, None, str(error)
    return model, vector.tolist(), ""
