"""The embedder that the settings choose, found among the entry points of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from usage_worker.embedders.embedder import errors_as
from usage_worker.errors import EmbedderError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.embedders.embedder import Embedder
    from usage_worker.settings import Settings

GROUP = "usage_worker.embedders"
"""An entry point of this group names a function that takes `Settings` and returns an `Embedder`."""


@cache
def embedder_of(settings: Settings) -> Embedder | None:
    """Return the embedder of `USAGE_EMBEDDER`, one for each process; None where none is configured.

    It loads nothing large: that is left to its first text.

    Raises:
        EmbedderError: it cannot be imported or made, or does not tell its model, dimension and batch size.
        EmbedderUnavailableError: it cannot tell its dimension now.
        SettingsError: no installed package has an embedder of that name, or one of its settings is wrong.
    """
    if not settings.embedder:
        return None
    installed = entry_points(group=GROUP)
    if settings.embedder not in installed.names:
        names = ", ".join(sorted(installed.names))
        raise SettingsError(f"USAGE_EMBEDDER: there is no embedder {settings.embedder!r}; there are {names}")
    with errors_as(EmbedderError, f"the embedder {settings.embedder!r} cannot be used"):
        make: Callable[[Settings], Embedder] = installed[settings.embedder].load()
        return make(settings)
