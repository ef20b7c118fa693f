"""Exports of LiteLLM_SpendLogs, as psql's copy and PostgreSQL's JSON functions write them, become events."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from usage_worker.errors import SettingsError
from usage_worker.publisher.event_files import Line, read_lines
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.spend_logs import COLUMNS, read_row

USER, AGENT = "6f2c8a52-0000-4000-8000-000000000001", "b7e0c9d4-0000-4000-8000-000000000002"
USAGE = {
    "prompt_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 900, "text_tokens": None},
    "cache_creation_input_tokens": 50,
    "completion_tokens_details": {"reasoning_tokens": 30},
}
FAILED = {"status": "failure"}
ROW: dict[str, Any] = {
    "request_id": "chatcmpl-123",
    "call_type": "acompletion",
    "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
    "spend": 1.5e-05,
    "total_tokens": 1300,
    "prompt_tokens": 1200,
    "completion_tokens": 100,
    "startTime": "2026-11-01T10:00:00.25",
    "endTime": "2026-11-01T10:00:02",
    "model": "gpt-5-mini",
    "custom_llm_provider": "openai",
    "user": USER,
    "end_user": "",
    "metadata": {"agent_id": AGENT, "usage_object": USAGE, "status": "success"},
    "cache_hit": "False",
    "messages": {"role": "user"},
    "session_id": "0b6f",
    "status": "success",
}
EVENT = {
    "event_id": "chatcmpl-123", "occurred_at": "2026-11-01T10:00:00.250000+00:00", "user_id": USER, "agent_id": AGENT,
    "input_tokens": 1200, "output_tokens": 100, "tokens": 1300, "cost_usd": "0.000015", "response_time_ms": 1750.0,
    "success": True, "model": "gpt-5-mini", "provider": "openai", "cached_input_tokens": 900, "cache_write_tokens": 50,
    "reasoning_tokens": 30,
}  # fmt: skip


def lines_of(text: str, *, is_csv: bool = False, columns: dict[str, str] | None = None, **constants: str) -> list[Line]:
    mapping = FieldMapping(COLUMNS | (columns or {}), constants, assume_utc=True, read_row=read_row)
    return list(
        mapping.events(read_lines(io.StringIO(text, newline=""), is_csv=is_csv, wanted=mapping.columns.values()))
    )


def event_of(changes: dict[str, Any], **options: Any) -> dict[str, Any]:
    (line,) = lines_of(json.dumps(ROW | changes), **options)
    assert line.problem == ""
    return line.fields


def problem_of(changes: dict[str, Any]) -> str:
    (line,) = lines_of(json.dumps(ROW | changes))
    return line.problem


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"cost_usd": f"{fields['cost_usd']:f}", "occurred_at": fields["occurred_at"].isoformat()}


def test_json_lines_and_arrays_are_read() -> None:
    text = json.dumps(ROW)
    for export in (f"{text}\n{text}\n", f"[{text},\n {text}]", f"[\n{json.dumps(ROW, indent=2)}, {text}]\n"):
        assert [plain(line.fields) for line in lines_of(export)] == [EVENT] * 2


def test_csv_is_read() -> None:
    """Quoted like by psql's copy; an exponent is how PostgreSQL writes a small float."""
    cells = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in ROW.items()}
    cells |= {"startTime": "2026-11-01 10:00:00.25", "endTime": "2026-11-01 10:00:02", "spend": "1.5e-05"}
    quoted = ",".join('"' + cell.replace('"', '""') + '"' if '"' in cell else cell for cell in cells.values())
    (line,) = lines_of(f"{','.join(cells)}\n{quoted}\n", is_csv=True)
    assert line.problem == ""
    texts = {name: str(EVENT[name]) for name in ("input_tokens", "output_tokens", "tokens")}
    expected = EVENT | texts | {"cost_usd": "1.5e-05"}
    assert line.fields | {"occurred_at": line.fields["occurred_at"].isoformat()} == expected


def test_options_override_columns() -> None:
    """Whoever runs agents by team, and users as end users, says so."""
    fields = event_of({"end_user": "42", "team_id": "bots"}, columns={"user_id": "end_user", "agent_id": "team_id"})
    assert (fields["user_id"], fields["agent_id"]) == ("42", "bots")
    assert event_of({}, agent_id="support-bot")["agent_id"] == "support-bot"
    assert event_of({}, columns={"conversation_id": "session_id"})["conversation_id"] == "0b6f"


@pytest.mark.parametrize(
    ("provider", "model", "stored"),
    [
        ("azure", "azure/gpt-4o", "gpt-4o"),
        ("openai", "openai/gpt-5-mini", "gpt-5-mini"),
        ("gemini", "gemini/gemini-2.5-flash", "gemini-2.5-flash"),
        ("openrouter", "openai/gpt-5-mini", "openai/gpt-5-mini"),
        (None, "azure/gpt-4o", "azure/gpt-4o"),
    ],
)
def test_model_is_that_of_its_provider(provider: str | None, model: str, stored: str) -> None:
    assert event_of({"custom_llm_provider": provider, "model": model})["model"] == stored


def test_null_of_copy_is_unknown() -> None:
    """As `COPY` writes it in its text form."""
    (line,) = lines_of(f"{','.join(ROW)}\n{','.join(rf'{chr(92)}N' for _ in ROW)}\n", is_csv=True)
    assert (line.problem, line.fields) == ("", {})


@pytest.mark.parametrize(
    "changes",
    [
        {"endTime": "2026-11-01T09:00:00"},
        {"endTime": "2026-11-02T10:00:01"},
        {"endTime": "soon"},
        {"endTime": "2026-11-01T10:00:02Z"},
        {"endTime": [1]},
    ],
)
def test_end_that_cannot_be_meant_loses_response_time_alone(changes: dict[str, Any]) -> None:
    assert plain(event_of(changes)) == {name: it for name, it in EVENT.items() if name != "response_time_ms"}


@pytest.mark.parametrize(
    ("changes", "agent"),
    [
        ({"metadata": json.dumps(json.dumps({"agent_id": "d"}))}, "d"),
        ({"metadata": json.dumps("text")}, None),
        ({"metadata": {"spend_logs_metadata": "text"}}, None),
        ({"metadata": {"spend_logs_metadata": '{"agent_id": "e"}', "usage_object": "text"}}, "e"),
        ({"agent_id": "a", "metadata": {"agent_id": "b"}}, "a"),
        ({"metadata": {"spend_logs_metadata": {"agent_id": "c"}}}, "c"),
        ({"metadata": {}}, None),
        ({"metadata": None}, None),
        ({"metadata": ""}, None),
        ({"metadata": [1]}, None),
    ],
)
def test_agent_is_found(changes: dict[str, Any], agent: str | None) -> None:
    assert event_of(changes).get("agent_id") == agent


@pytest.mark.parametrize(
    ("changes", "success"),
    [
        ({"status": "failure"}, False),
        ({"status": None}, True),
        ({"status": None, "metadata": FAILED}, False),
        ({"status": None, "metadata": {}}, None),
    ],
)
def test_success_follows_from_status(changes: dict[str, Any], success: bool | None) -> None:
    assert event_of(changes).get("success") == success


@pytest.mark.parametrize(
    ("changes", "is_left_out"),
    [
        ({"call_type": "aget_responses"}, True),
        ({"call_type": "cancel_responses"}, True),
        ({"call_type": "afile_list", "total_tokens": 0, "spend": "0.0"}, True),
        ({"call_type": "aretrieve_batch", "total_tokens": 0, "spend": 0.0}, True),
        ({"call_type": "aretrieve_batch"}, False),
        ({"call_type": "aresponses", "total_tokens": 0, "spend": 0.0, "status": "failure"}, False),
        ({"call_type": "aocr", "total_tokens": 0, "spend": "1.5e-05"}, False),
        ({"call_type": ""}, False),
        ({"call_type": "_arealtime", "total_tokens": 0, "spend": 0.0}, True),
        ({"call_type": "_arealtime", "total_tokens": 0, "spend": 0.0, "status": "failure"}, False),
        (
            {
                "call_type": "_arealtime",
                "total_tokens": 0,
                "spend": 0,
                "status": None,
                "metadata": FAILED,
            },
            False,
        ),
        ({"call_type": "aget_responses", "request_id": "resp_1_background_cost"}, False),
    ],
)
def test_rows_that_are_no_use_of_a_model_are_left_out(changes: dict[str, Any], is_left_out: bool) -> None:
    lines = lines_of(json.dumps(ROW | changes) + "\n" + json.dumps(ROW))
    assert [line.is_left_out for line in lines] == [is_left_out, False]
    assert not any(line.problem for line in lines)


def test_unknown_values_are_left_out() -> None:
    """A row of an older version, or of a call that never reached a provider."""
    older = {name: value for name, value in ROW.items() if name not in ("custom_llm_provider", "status", "endTime")}
    (line,) = lines_of(json.dumps(older | {"user": "", "metadata": "{}"}))
    known = {"event_id", "occurred_at", "input_tokens", "output_tokens", "tokens", "cost_usd", "model"}
    assert line.fields.keys() == known
    usage = {"cache_read_input_tokens": 7, "prompt_tokens_details": None}
    assert event_of({"metadata": {"additional_usage_values": usage}})["cached_input_tokens"] == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "pending"}, "status: is neither success nor failure"),
        ({"status": [1]}, "status: is neither success nor failure"),
        ({"metadata": "{"}, "metadata: is not JSON"),
        ({"metadata": "[" * 100_000}, "metadata: is nested too deeply"),
        ({"metadata": "9" * 5_000}, "metadata: has a number"),
        ({"startTime": "soon", "endTime": None}, "occurred_at: is not a time"),
        ({"startTime": "soon"}, "occurred_at: is not a time"),
    ],
)
def test_unreadable_rows_are_bad_lines(changes: dict[str, Any], reason: str) -> None:
    assert problem_of(changes).startswith(reason)


def test_column_of_a_wrong_time_is_named() -> None:
    assert problem_of({"startTime": "soon"}).endswith(" (column startTime)")


def test_other_tables_are_refused() -> None:
    with pytest.raises(SettingsError, match="no column request_id"):
        lines_of("id,spend\n1,2\n", is_csv=True)
    with pytest.raises(SettingsError, match="no column model"):
        lines_of(f"{','.join(name for name in ROW if name != 'model')}\n", is_csv=True)
    (line,) = lines_of('{"id": 1}')
    assert line.problem == "has no field request_id, which --map or --from names"
