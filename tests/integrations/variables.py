"""The variables of the SDKs with which the documents ask the provider of this machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.test_up import Up


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
