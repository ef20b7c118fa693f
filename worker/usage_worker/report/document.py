"""A document of HTML that loads nothing from elsewhere and runs only its own scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from usage_worker.report.assets import csp_hash

if TYPE_CHECKING:
    from collections.abc import Sequence


def content_policy(scripts: Sequence[str], rules: str = "form-action 'none'") -> str:
    """Return the Content-Security-Policy that allows these scripts, no request, and what the rules say."""
    hashes = " ".join(map(csp_hash, scripts)) or "'none'"
    # ECharts sets the style of its elements.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; {rules}"
    )


def document_html(title: str, style: str, policy: str, body: str, scripts: Sequence[str]) -> str:
    """Return the document; `body` is HTML, in front of the scripts."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""
