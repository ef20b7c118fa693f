"""Rows of LiteLLM's table `LiteLLM_SpendLogs`, as CSV or JSON, as the fields of events.

The table: https://github.com/BerriAI/litellm/blob/main/schema.prisma. Its columns of time are `timestamp(3)` without a
zone, in UTC. Prompt tokens include cached ones, completion tokens those of reasoning, whatever the provider says.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from usage_worker.events.values import datetime_of, decimal_of
from usage_worker.publisher.call import response_time
from usage_worker.responses.litellm import is_model_call
from usage_worker.responses.openai import CHAT

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = {
    "event_id": "request_id",
    "occurred_at": "startTime",
    "user_id": "user",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "tokens": "total_tokens",
    "cost_usd": "spend",
    "model": "model",
}
"""Columns that every version of the table has, by event field."""
_MILLISECOND = timedelta(milliseconds=1)
_SUCCESS = {"success": True, "failure": False}


def read_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the event fields that follow from several columns, or from one that older versions lack.

    None for a row that is not a call of a model.

    Raises:
        ValueError: a column cannot be read; the message names it.
    """
    metadata = _metadata(row.get("metadata"))
    success = _success(row.get("status") or metadata.get("status"))
    if "call_type" in row and not _is_use(row, failed=success is False):
        return None
    usage = _object(metadata.get("usage_object")) or _object(metadata.get("additional_usage_values"))
    parts = CHAT.counts(usage)
    return {
        "success": success,
        "response_time_ms": _response_time(row),
        "provider": row.get("custom_llm_provider"),
        "model": _model(row),
        "agent_id": row.get("agent_id")
        or metadata.get("agent_id")
        or _object(metadata.get("spend_logs_metadata")).get("agent_id"),
        **{name: parts.get(name) for name in ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens")},
    }


def _is_use(row: Mapping[str, Any], *, failed: bool) -> bool:
    """Return whether a row is a use of a model, which a failed call is, too.

    The single row with the cost of a batch is one, and so is the row with the final cost of a background response.
    """
    if str(row.get("request_id")).endswith("_background_cost"):
        return True
    has_usage = failed or any(decimal_of(row.get(name)) for name in ("total_tokens", "spend"))
    return is_model_call(str(row["call_type"]), has_usage=has_usage)


def _metadata(value: Any) -> dict[str, Any]:
    """Return the column's object, which CSV has as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError("metadata: is not JSON") from None
        except RecursionError:
            raise ValueError("metadata: is nested too deeply") from None
        except ValueError:
            raise ValueError("metadata: has a number with too many digits") from None
    return _object(value)


def _object(value: Any) -> dict[str, Any]:
    """Return a JSON object, or that of a text, as of what was encoded twice; an empty one where there is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _model(row: Mapping[str, Any]) -> Any:
    """Return the model without its provider's prefix, as lists of prices name it."""
    model = row.get("model")
    return model.removeprefix(f"{row.get('custom_llm_provider')}/") if isinstance(model, str) else model


def _success(status: Any) -> bool | None:
    """Return whether a call succeeded; None where the row is older than the column."""
    if status is None:
        return None
    if str(status) not in _SUCCESS:
        raise ValueError("status: is neither success nor failure")
    return _SUCCESS[str(status)]


def _response_time(row: Mapping[str, Any]) -> float | None:
    """Return milliseconds; None where the columns cannot be meant so, which loses nothing else of the row."""
    try:
        milliseconds = (datetime_of(row.get("endTime")) - datetime_of(row.get("startTime"))) / _MILLISECOND
    except (PydanticCustomError, TypeError):  # not two times in the same notation
        return None
    return response_time(milliseconds)
