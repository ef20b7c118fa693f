"""The parts of the page that are files: its style, its script, and ECharts."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def asset(name: str, package: str = __package__) -> str:
    """Return the text of a file of a package, as it is."""
    return files(package).joinpath(name).read_bytes().decode()


@cache
def csp_hash(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
