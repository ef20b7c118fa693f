"""By how much a corrected event changes the totals that it was counted in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usage_worker.store.counters import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

# The totals that are sums of a field; an unknown value counts as 0.
_SUMS: Final = {
    "message_count": "messages",
    "total_tokens_used": "tokens",
    "total_cost_usd": "cost_usd",
    "response_time_total_ms": "response_time_ms",
    **{name: name for name in COLUMNS["parts"]},
}


def added_counters(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return by how much each total changes, except the number of conversations."""
    before, after = _amounts(old), _amounts(new)
    return {name: after[name] - before[name] for name in after}


def _amounts(use: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a use adds to each total."""
    return {
        **{name: use[field] or 0 for name, field in _SUMS.items()},
        "success_count": int(use["success"]),
        "error_count": int(not use["success"]),
        "response_time_samples": int(use["response_time_ms"] is not None),
    }
