"""Fixtures of the tests that need no server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace

from tests.unit.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace.sampling import Sampler


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sampler | None], Spans]:
    """Return a function that makes spans of this process go to a new provider: the API lets nobody replace one."""

    def use(sampler: Sampler | None = None) -> Spans:
        spans = Spans(sampler)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
        return spans

    return use


@pytest.fixture
def spans(use: Callable[..., Spans]) -> Spans:
    return use()
