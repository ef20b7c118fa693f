"""The OpenAPI document; the schema of an event is that of `Event`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from usage_worker.events.event import EVENT
from usage_worker.events.external_ids import MAX_EXTERNAL_ID
from usage_worker.http import paths
from usage_worker.http.events import MAX_EVENTS
from usage_worker.http.forms import CLOUD_EVENT, CLOUD_EVENTS, OURS
from usage_worker.http.usage_query import DEFAULT_DAYS, DEFAULT_ROWS, MAX_ROWS
from usage_worker.store.counters import COLUMNS
from usage_worker.store.usage_totals import GROUPS

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_UUID, _ANY_TEXT = {"type": "string", "format": "uuid"}, {**_TEXT, "maxLength": MAX_EXTERNAL_ID}
_ERROR = {"type": "string", "description": "Why the request failed, in one line."}
# Columns that `UsageEndpoint` shows in another form, or not at all.
_NOT_SHOWN = {"total_cost_usd", "response_time_total_ms", "response_time_samples"}
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds.", "required": True}}


def openapi(root: str, *, any_id: bool) -> dict[str, Any]:
    """Return the document of a service.

    Args:
        root: where it is mounted, as `/usage`; empty for one of its own.
        any_id: whether ids may be any number or text.
    """
    event = _event(any_id=any_id)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "usage-worker",
            "version": version("usage-worker"),
            "description": "Send usage events, and read what was counted.",
        },
        "servers": [{"url": root or "/"}],
        "paths": {
            paths.EVENTS: {"post": _post_events()},
            paths.USAGE: {"get": _get_usage(_ANY_TEXT if any_id else _UUID)},
            paths.LIVE: {"get": _health("Whether the process answers.")},
            paths.READY: {"get": _health("Whether Redis takes events.", {"503": _json("It does not.", "Error")})},
            paths.METRICS: {"get": _metrics()},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Event": event,
                "CloudEvent": _cloud_event(event["properties"]),
                "Taken": _taken(),
                "Usage": _usage(),
                "Error": _object({"error": _ERROR, "field": {"type": "string"}}, ["error"]),
                "Status": _object({"status": {"const": "ok"}}),
            },
        },
    }


def _post_events() -> dict[str, Any]:
    refusals = {
        "400": "No event is right, or the body cannot be read.",
        "401": "The key is missing or wrong.",
        "403": "The key may only read.",
        "408": "The body took too long.",
        "413": "The body is too large.",
        "415": "The type, the charset or the compression of the body is another one.",
    }
    waiting = {
        "429": "Too many requests are in flight.",
        "503": "Redis is not available or nearly full. `accepted` is null where it may have the events nevertheless.",
    }
    batch = {"type": "array", "maxItems": MAX_EVENTS}
    body = {
        OURS: {"schema": {"oneOf": [_ref("Event"), {**batch, "items": _ref("Event")}]}},
        CLOUD_EVENT: {"schema": _ref("CloudEvent")},
        CLOUD_EVENTS: {"schema": {**batch, "items": _ref("CloudEvent")}},
    }
    return {
        "summary": "Send events",
        "description": "Events that are right are taken, whatever others are. An event with an identity that is sent "
        "again counts once, so that a request may be repeated. A body may be compressed with gzip.",
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "202": _json("Redis has the events but those in `refused`.", "Taken"),
            **{status: _json(text, "Taken") for status, text in refusals.items()},
            **{status: _json(text, "Taken") | {"headers": _RETRY} for status, text in waiting.items()},
        },
    }


def _get_usage(one_id: dict[str, Any]) -> dict[str, Any]:
    day = {"type": "string", "format": "date"}
    groups = {"type": "array", "items": {"enum": list(GROUPS)}, "uniqueItems": True}
    rows = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
    parameters = [
        _parameter("user_id", one_id, "Only this user's usage."),
        _parameter("agent_id", one_id, "Only this agent's usage."),
        _parameter("from", day, f"First UTC day; by default {DEFAULT_DAYS} days up to the last."),
        _parameter("to", day, "Last UTC day; by default today."),
        _parameter("group_by", groups, "A row for each; models are known while the ledger keeps the day.")
        | {"style": "form", "explode": False},
        _parameter("limit", rows, "Greatest number of rows."),
        _parameter("cursor", {"type": "string"}, "`cursor` of the page before, with the same ids, days and groups."),
    ]
    refusals = {
        "400": "A parameter is wrong: `field`.",
        "401": "The key is missing or wrong.",
        "403": "The key may only write.",
        "501": "The service has no database.",
    }
    return {
        "summary": "Read totals",
        "description": "Totals of UTC days, in the order of the groups. Money is text; what is unknown is null.",
        "security": [{"key": []}],
        "parameters": parameters,
        "responses": {
            "200": _json("The totals.", "Usage"),
            **{status: _json(text, "Error") for status, text in refusals.items()},
            "503": _json("PostgreSQL is not available, or takes too long.", "Error") | {"headers": _RETRY},
        },
    }


def _health(text: str, others: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": _json("Yes.", "Status"), **(others or {})}}


def _metrics() -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "summary": "Metrics for Prometheus.",
        "responses": {"200": {"description": "The metrics.", "content": content}},
    }


def _event(*, any_id: bool) -> dict[str, Any]:
    """Return the schema of `Event`; null is unknown for each field that may be left out."""
    schema = EVENT.json_schema()
    for name in ("user_id", "agent_id", "conversation_id") if any_id else ():
        field = schema["properties"][name]
        null = [it for it in field.pop("anyOf", []) if it["type"] == "null"]
        schema["properties"][name] = {"title": field["title"], "anyOf": [_ANY_TEXT, {"type": "integer"}, *null]}
    for name in schema["properties"].keys() - schema["required"]:
        field = schema["properties"][name]
        if "anyOf" not in field:
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    schema["description"] += (
        " Numbers, times and ids may also have other notations; docs/reference/events.md lists all."
    )
    return schema


def _cloud_event(event: dict[str, Any]) -> dict[str, Any]:
    data = {name: schema for name, schema in event.items() if name not in ("event_id", "type")}
    attributes = {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": {**_TEXT, "description": "With `id`, the identity of the event."},
        "type": {"type": "string", "pattern": r"^(.*\.)?(usage|rating)$"},
        "subject": {**_TEXT, "description": "The user."},
        "time": event["occurred_at"],
        "datacontenttype": {"const": OURS},
        "data": {"type": "object", "properties": data, "additionalProperties": False},
    }
    return _object(attributes, ["specversion", "id", "source", "type", "data"]) | {"additionalProperties": True}


def _taken() -> dict[str, Any]:
    refused = {
        "index": {"type": "integer", "minimum": 0, "description": "Place of the event in the request, from 0."},
        "field": {"type": ["string", "null"], "description": "Its field; null for the event as a whole."},
        "reason": {"type": "string"},
    }
    properties = {
        "accepted": {"type": ["integer", "null"], "minimum": 0, "description": "Events that Redis has."},
        "refused": {"type": "array", "items": _object(refused)},
        "error": _ERROR,
    }
    return _object(properties, ["accepted", "refused"])


def _usage() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    row = {
        **dict.fromkeys(GROUPS.values(), text),
        **{name: {"type": "integer", "minimum": 0} for name in COLUMNS["ledger_sums"] if name not in _NOT_SHOWN},
        "total_cost_usd": {**text, "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        "avg_response_time_ms": {"type": ["integer", "null"], "minimum": 0},
    }
    day = {"type": "string", "format": "date"}
    rows = {"type": "array", "items": _object(row, sorted(row.keys() - GROUPS.values()))}
    return _object({"from": day, "to": day, "usage": rows, "cursor": text})


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _parameter(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _json(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
