"""The columns that count: sums of events. Tests compare these lists with every table and function that has them."""

from typing import Final

# Sums of the ledger, which every table of totals has.
_SUMS: Final = (
    "usage_count",
    "message_count",
    "success_count",
    "error_count",
    "total_tokens_used",
    "total_cost_usd",
    "response_time_total_ms",
    "response_time_samples",
)
# Sums that only the daily totals have.
_PARTS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
# The ledger has the ids of conversations, but not on which day one was new.
_CONVERSATIONS: Final = ("conversation_count",)

COLUMNS: Final = {
    "sums": _SUMS,
    "parts": _PARTS,
    "ledger_sums": _SUMS + _PARTS,
    "counters": _SUMS + _CONVERSATIONS,
    "daily": _SUMS + _PARTS + _CONVERSATIONS,
}
"""The lists that named queries refer to: `counters` is what `user_agents` has, `daily` what `usage_daily` has."""
