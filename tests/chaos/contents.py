"""The whole contents of an event in one form, whether it was sent or is a row of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

from usage_worker.testing.oracle import TOKEN_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping


def canonical(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an event with its defaults, as text and numbers; it shares no code with ingest."""
    kind = event.get("type") or "usage"
    found: dict[str, Any] = {name: str(event[name]) for name in ("event_id", "user_id", "agent_id")}
    found |= {"type": kind, "occurred_at": datetime.fromisoformat(str(event["occurred_at"])).astimezone(UTC)}
    if kind == "rating":
        return found | {"rating": _rounded(event["rating"])}
    conversation, success, messages = (event.get(name) for name in ("conversation_id", "success", "messages"))
    found |= {name: event.get(name) or 0 for name in TOKEN_PARTS}
    tokens = event.get("tokens")
    return found | {
        "tokens": found["input_tokens"] + found["output_tokens"] if tokens is None else tokens,
        "conversation_id": conversation and str(conversation),
        "success": True if success is None else success,
        "messages": 1 if messages is None else messages,
        "cost_usd": _rounded(event.get("cost_usd")),
        **{name: event.get(name) for name in ("model", "provider", "response_time_ms")},
    }


def _rounded(value: object) -> Decimal:
    return Decimal(str(value or 0)).quantize(Decimal("1E-10"), ROUND_HALF_EVEN)
