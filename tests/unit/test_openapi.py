"""The OpenAPI document."""

from __future__ import annotations

from usage_worker.http.openapi import openapi


def test_document_says_which_ids_are_taken() -> None:
    document = openapi("", any_id=True)
    fields = document["components"]["schemas"]["Event"]["properties"]
    text = {"type": "string", "minLength": 1, "maxLength": 255}
    for name in ("user_id", "agent_id"):
        assert fields[name]["anyOf"] == [text, {"type": "integer"}]
    assert fields["conversation_id"]["anyOf"] == [text, {"type": "integer"}, {"type": "null"}]
    parameters = {it["name"]: it["schema"] for it in document["paths"]["/api/v1/usage"]["get"]["parameters"]}
    assert parameters["user_id"] == parameters["agent_id"] == text
    only_uuids = openapi("", any_id=False)["components"]["schemas"]["Event"]["properties"]
    assert only_uuids["agent_id"]["format"] == "uuid"
