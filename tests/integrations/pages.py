"""The blocks of the documents, and the variables of the SDKs with which they ask the provider of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.test_up import Up

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page of the documents."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def keys(provider_url: str) -> dict[str, str]:
    """Return the environment of the SDKs."""
    return {
        "OPENAI_BASE_URL": f"{provider_url}/v1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": provider_url,
        "ANTHROPIC_API_KEY": "none",
    }


def exports(up: Up) -> dict[str, str]:
    """Return the variables that `usage-worker up` prints for other terminals."""
    return dict(re.findall(r"^export (\w+)='?([^'\n]*)'?$", up.printed, re.MULTILINE))
