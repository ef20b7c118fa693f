"""What an embedder is, and what is checked of the vectors of each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from usage_worker.errors import EmbedderError, TextRefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into vectors of one dimension, whose cosine says how close the texts are in meaning."""

    @property
    def model(self) -> str:
        """The name under which the vectors are stored; vectors of different names are never compared."""

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""

    @property
    def batch_size(self) -> int:
        """How many texts to give at once."""

    def embed(self, texts: Sequence[str]) -> Any:
        """Return a vector for each text, as anything that numpy reads as an array of rows.

        Raises:
            EmbedderUnavailableError: nothing is wrong with the texts; try again later.
            TextRefusedError: at least one of the texts cannot be embedded.
        """


@contextmanager
def errors_as(kind: type[EmbedderError], doing: str) -> Iterator[None]:
    """Run code of an embedder in the block; an exception that is not ours becomes one of `kind`.

    It names the type alone: the message may quote a text.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - an embedder of others may raise anything
        raise kind(f"{doing}: {type(error).__name__}") from None


def unit_vectors(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed the texts and return vectors of length 1, one row for each text.

    Raises:
        EmbedderError: the result has another shape.
        TextRefusedError: a vector has no direction: it holds NaN or infinity, or zeros only; or the embedder failed.
        EmbedderUnavailableError: as `Embedder.embed`.
    """
    with errors_as(TextRefusedError, "the embedder fails"):
        vectors, dimension = np.asarray(embedder.embed(texts), dtype=np.float64), embedder.dimension
    if vectors.shape != (len(texts), dimension):
        expected = f"{len(texts)} vectors of {dimension} numbers"
        raise EmbedderError(f"{embedder.model} returned an array of shape {vectors.shape}, not {expected}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise TextRefusedError(f"{embedder.model} returned a vector without a direction")
    result: Vectors = (vectors / lengths).astype(np.float32)
    return result
