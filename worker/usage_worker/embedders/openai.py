"""The embedder `openai`: any service with OpenAI's interface for embeddings, as OpenAI, vLLM, Ollama or TEI.

What is sent: the texts, the name of the model and the key. An error says the status of the answer, never a
text, nor the key.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from usage_worker.embedders.http import ANSWER_SECONDS, post
from usage_worker.errors import EmbedderError, EmbedderUnavailableError, SettingsError, TextRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.settings import Settings

# A harmless text, whose vector tells the dimension, and that address, key and model are right.
_PROBE = "agent"
_REFUSED = {400, 413, 422}


class OpenAIEmbedder:
    """A service at `url`, such as `https://api.openai.com/v1`, whose `/embeddings` it asks."""

    batch_size = 64

    def __init__(self, url: str, model: str, key: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.model = model
        self._answer_seconds = answer_seconds
        self._url = f"{url.rstrip('/').removesuffix('/embeddings')}/embeddings"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    @cached_property
    def dimension(self) -> int:
        """The length of the vectors, which the service is asked for once.

        Raises:
            EmbedderError: it refuses the model or the key.
            EmbedderUnavailableError: it does not answer.
        """
        try:
            return len(self._ask([_PROBE])[0])
        except TextRefusedError as error:
            raise EmbedderError(f"{error.detail}; are USAGE_EMBEDDER_URL and USAGE_EMBEDDER_MODEL right?") from None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed the texts with one request; see `Embedder.embed`."""
        dimension = self.dimension
        vectors = self._ask(texts)
        if any(len(vector) != dimension for vector in vectors):
            # Of a model that was exchanged behind its name, vectors may not stand beside the older ones.
            raise EmbedderError(f"{self.model} returned vectors of another dimension than {dimension}")
        return vectors

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        request = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        answer = post(self._url, json.dumps(request).encode(), self._headers, self._answer_seconds)
        if answer.status in _REFUSED:
            raise TextRefusedError(answer.complaint)
        if answer.is_temporary:
            raise EmbedderUnavailableError(answer.complaint)
        if not answer.is_ok:
            raise EmbedderError(f"{answer.complaint}; are USAGE_EMBEDDER_URL and USAGE_EMBEDDER_KEY right?")
        return _vectors(answer.body, len(texts))


def _vectors(body: bytes, count: int) -> list[list[float]]:
    """Return the vectors in the order of their texts.

    Raises:
        EmbedderError: it is not what the interface describes.
    """
    try:
        items = json.loads(body)["data"]
        by_index = {item["index"]: item["embedding"] for item in items}
        vectors = [[float(number) for number in by_index[place]] for place in range(count)]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise EmbedderError(f"the answer is not a list of {count} embeddings with their index") from None
    if len(items) != count or not all(vectors):
        raise EmbedderError(f"the answer has {len(items)} embeddings for {count} texts, or an empty one")
    return vectors


def make(settings: Settings) -> OpenAIEmbedder:
    """Make the embedder of these settings.

    Raises:
        SettingsError: the address or the name of the model is missing.
    """
    for name in ("embedder_url", "embedder_model"):
        if not getattr(settings, name):
            raise SettingsError(f"USAGE_{name.upper()} is not set; USAGE_EMBEDDER=openai needs it")
    return OpenAIEmbedder(settings.embedder_url, settings.embedder_model, settings.embedder_key)
