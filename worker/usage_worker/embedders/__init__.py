"""Embedders: what turns texts into vectors. Each is found by its entry point, none is loaded before it is used."""

from usage_worker.embedders.embedder import Embedder, Vectors, errors_as, unit_vectors
from usage_worker.embedders.registry import GROUP, embedder_of

__all__ = ["GROUP", "Embedder", "Vectors", "embedder_of", "errors_as", "unit_vectors"]
