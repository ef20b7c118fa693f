"""Events over HTTP: what is taken, what is refused, and with which status."""

from __future__ import annotations

import gzip
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.helpers import eventually
from tests.hostile import HOSTILE_TEXT, check_shown
from tests.integration.service import AGENT, EVENT, JSON, READER, USERS, WRITER, Service, serving
from usage_worker.http.body import MAX_BYTES, MAX_VALUES
from usage_worker.http.events import MAX_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.integration.conftest import IngestHarness
    from tests.servers import Valkey

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "42",
    "source": "/chat",
    "type": "com.example.usage",
    "subject": USERS[0],
    "data": {"agent_id": AGENT, "cost_usd": 0.1},
}
GOOD = {"accepted": 1, "refused": []}


@pytest.fixture(scope="module")
def service(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), valkey.url()) as service:
        yield service


def test_events_of_every_form_are_counted_once(service: Service, harness: IngestHarness) -> None:
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    cloud = {**CLOUD_EVENT, "subject": pair["user_id"], "data": {"agent_id": pair["agent_id"], "cost_usd": 0.1}}
    binary = {"ce_specversion": "1.0", "ce_id": "b%20in", "ce_source": "/chat", "ce_type": "usage"}
    sent = [
        service.post({**pair, "event_id": "one", "cost_usd": 0.1}),
        service.post([{**pair, "event_id": str(number)} for number in range(1_200)]),
        service.post(cloud, SINGLE),
        service.post([cloud, {**cloud, "source": "/mail", "time": datetime.now(UTC).isoformat()}], BATCH),
        service.post(pair, **binary),
        service.post({**pair, "event_id": "one", "cost_usd": 0.1}),
        service.post(gzip.compress(json.dumps(cloud).encode()), SINGLE, content_encoding="gzip"),
    ]
    assert [(reply.status, reply.json["accepted"]) for reply in sent] == [
        (202, count) for count in (1, 1_200, 1, 2, 1, 1, 1)
    ]
    intake = harness.flush()
    assert (intake.applied, intake.duplicate) == (1_204, 3)
    (totals,) = harness.resources.store.rows("SELECT sum(total_cost_usd) AS cost FROM public.user_agents")
    assert f"{totals['cost']:f}" == "0.3000000000"


def test_time_of_event_with_key_alone_is_that_of_its_first_delivery(
    service: Service, redis_client: redis.Redis
) -> None:
    assert service.post([{**EVENT, "event_id": "key"}, EVENT]).json == {"accepted": 2, "refused": []}
    entries: Any = redis_client.xrange("usage:events:{0}")
    assert [(fields[b"n"], fields.get(b"times")) for _, fields in entries] == [(b"1", b"publisher"), (b"1", None)]


def test_good_events_go_when_others_are_bad(service: Service, redis_client: redis.Redis) -> None:
    events = [EVENT, {**EVENT, "cost_usd": -1}, "text", {**EVENT, "user_id": USERS[1]}, {"user_id": USERS[0]}]
    reply = service.post(events)
    assert reply.status == 202
    assert reply.json == {
        "accepted": 2,
        "refused": [
            {"index": 1, "field": "cost_usd", "reason": "Input should be greater than or equal to 0"},
            {"index": 2, "field": "event", "reason": "Input should be an object"},
            {"index": 4, "field": "agent_id", "reason": "Field required"},
        ],
    }
    assert [redis_client.xlen(f"usage:events:{{{shard}}}") for shard in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"source": None}, "source"),
        ({"type": "com.example.click"}, "type"),
        ({"time": "yesterday"}, "occurred_at"),
        ({"subject": None}, "user_id"),
        ({"data": "text"}, "data"),
        ({"data": None, "data_base64": "e30="}, "data"),
        ({"datacontenttype": "text/xml"}, "data"),
        ({"data": {"agent_id": AGENT, "user_id": USERS[1]}}, "user_id"),
        ({"data": {"agent_id": AGENT, "event_id": "x"}}, "event_id"),
        ({"data": {"agent_id": AGENT, "clicks": 1}}, "clicks"),
    ],
)
def test_wrong_attribute_is_named(service: Service, changed: dict[str, Any], field: str) -> None:
    reply = service.post({**CLOUD_EVENT, **changed}, SINGLE)
    assert (reply.status, reply.json["accepted"], reply.json["refused"][0]["field"]) == (400, 0, field)


def test_data_may_have_what_no_attribute_gives(service: Service, redis_url: str) -> None:
    event = {name: value for name, value in CLOUD_EVENT.items() if name != "subject"}
    event["data"] = {**EVENT, "occurred_at": datetime.now(UTC).isoformat()}
    assert service.post(event, SINGLE).json == GOOD
    assert service.post([], BATCH).json == {"accepted": 0, "refused": []}


BINARY = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/chat", "ce_type": "usage"}


@pytest.mark.parametrize(
    ("name", "field", "raw", "reason"),
    [
        ("ce-subject", "user_id", [b"Zo\xeb"], "UTF-8"),
        ("ce-subject", "user_id", [b"%E2%82"], "UTF-8"),
        ("ce-subject", "user_id", [b"%ED%A0%80"], "UTF-8"),
        ("ce-subject", "user_id", [USERS[0].encode(), USERS[1].encode()], "twice"),
        ("ce-id", "id", [b"1"], "twice"),
        ("ce-specversion", "specversion", [b"0.3"], "twice"),
    ],
)
def test_attribute_in_headers_that_cannot_be_read_is_named(
    service: Service, name: str, field: str, raw: list[bytes], reason: str
) -> None:
    reply = service.post_raw({"agent_id": AGENT}, [*BINARY.items(), *((name, it) for it in raw)])
    (refused,) = reply.json["refused"]
    assert (reply.status, refused["field"]) == (400, field)
    assert reason in refused["reason"]


def test_attribute_in_headers_may_be_quoted_and_encoded(service: Service, harness: IngestHarness) -> None:
    data = {"agent_id": str(harness.agents[0]), "occurred_at": datetime.now(UTC).isoformat()}
    user = str(harness.users[0])
    for identifier in (b"a%20%22b%22", rb'"a \"b\""', rb'"a%20\"b\""', "ë".encode(), b"%C3%AB"):
        headers = [*(BINARY | {"ce_id": identifier}).items(), ("ce-subject", f'"{user}"')]
        assert service.post_raw(data, headers).json == GOOD
    intake = harness.flush()
    assert (intake.applied, intake.duplicate) == (2, 3)


def test_long_source_is_an_identity(service: Service, harness: IngestHarness) -> None:
    pair = {"subject": str(harness.users[0]), "data": {"agent_id": str(harness.agents[0])}}
    for source in ("/a" + "x" * 300, "/b" + "x" * 300, "/a" + "x" * 300):
        assert service.post({**CLOUD_EVENT, **pair, "source": source}, SINGLE).status == 202
    intake = harness.flush()
    assert (intake.applied, intake.duplicate) == (2, 1)


GZIP = {"content_encoding": "gzip"}
UNREADABLE: dict[str, tuple[bytes, dict[str, str], int]] = {
    "empty": (b"", {}, 400),
    "cut off": (b"{", {}, 400),
    "deep": (b"[" * 100_000, {}, 400),
    "not UTF-8": (b"\xff", {}, 400),
    "UTF-16": (json.dumps(EVENT).encode("utf-16"), {}, 400),
    "number": (b"7", {}, 400),
    "batch that is an object": (b"{}", {"kind": BATCH}, 400),
    "not gzip": (b"{}", GZIP, 400),
    "gzip cut off": (gzip.compress(b"{}" * 1_000)[:-9], GZIP, 400),
    "gzip twice": (gzip.compress(b"{}") * 2, GZIP, 400),
    "wrong key": (b"{}", {"key": "wrong"}, 401),
    "hash as key": (b"{}", {"key": WRITER[1].digest}, 401),
    "key that reads": (b"{}", {"key": READER[0]}, 403),
    "many values": (gzip.compress(b'{"a":[' + b"1.5," * MAX_VALUES + b"1.5]}"), GZIP, 413),
    "as many as may be": (gzip.compress(b'{"a":[' + b"1.5," * (MAX_VALUES - 2) + b"1.5]}"), GZIP, 400),
    "many arrays": (b'{"a":[' + b"[[[[[[]]]]]]," * (MAX_VALUES // 6) + b"1]}", {}, 413),
    "many events": (b"[" + b"{}," * MAX_EVENTS + b"{}]", {}, 413),
    "large": (b" " * (MAX_BYTES + 1), {}, 413),
    "large decompressed": (gzip.compress(b" " * 20 * MAX_BYTES, 1), GZIP, 413),
    "text": (b"{}", {"kind": "text/plain"}, 415),
    "Latin-1": (b"{}", {"kind": "application/json; charset=latin-1"}, 415),
    "brotli": (b"{}", {"content_encoding": "br"}, 415),
}


@pytest.mark.parametrize(("body", "headers", "status"), UNREADABLE.values(), ids=UNREADABLE)
def test_request_that_cannot_be_read_has_its_status(
    service: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    reply = service.post(body, **headers)
    assert (reply.status, reply.json["accepted"]) == (status, 0)
    assert reply.json.get("error") or reply.json["refused"]
    check_shown(json.loads(reply.text).get("error", ""))


def test_key_is_asked_for(service: Service) -> None:
    reply = service.send("POST", "/api/v1/events", b"{}", content_type=JSON)
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert service.send("GET", "/api/v1/usage").status == 401
    assert service.usage(key=WRITER[0]).status == 403
    assert service.usage().status == 501


def test_chunks_are_taken_up_to_the_limit(service: Service, redis_url: str) -> None:
    chunks = [b"[", json.dumps(EVENT).encode(), b"]"]
    assert service.send("POST", "/api/v1/events", iter(chunks), **headers_of(JSON)).json == GOOD
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        head = "POST /api/v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        named = "".join(f"{name}: {value}\r\n" for name, value in headers_of(JSON).items())
        client.sendall(f"{head}{named}\r\n".replace("content_type", "content-type").encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(MAX_BYTES // 0x10000 + 1):
            client.sendall(chunk)
        client.sendall(b"0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def headers_of(kind: str) -> dict[str, str]:
    return {"content_type": kind, "authorization": f"Bearer {WRITER[0]}"}


def test_hostile_texts_reach_neither_answer_nor_log(service: Service, redis_url: str) -> None:
    secret = "s3cret" + uuid4().hex
    reply = service.post({**EVENT, HOSTILE_TEXT: secret, "model": secret + "\x00"})
    assert reply.status == 400
    for refused in reply.json["refused"]:
        check_shown(f"{refused['field']}: {refused['reason']}")
    service.send("GET", "/" + secret + "%0aforged%1b[31m?key=" + secret, authorization=f"Bearer {secret}")
    service.post(EVENT)
    # The service logs a request after the client has its answer.
    eventually(lambda: service.lines()[-1].get("status") == 202)
    log = service.log.read_text()
    assert secret not in log.replace(f"/{secret}", "")
    assert WRITER[0] not in log
    check_shown(log)
    last = service.lines()[-1]
    assert {name: last[name] for name in ("event", "method", "path", "status", "key")} == {
        "event": "request",
        "method": "POST",
        "path": "/api/v1/events",
        "status": 202,
        "key": "writer",
    }


def test_concurrent_requests_all_arrive(service: Service, harness: IngestHarness) -> None:
    pair = {"user_id": str(harness.users[1]), "agent_id": str(harness.agents[1])}

    def send(number: int) -> int:
        reply = service.post([{**pair, "event_id": f"{number // 2} {place}"} for place in range(20)])
        return reply.status if reply.status != 202 else int(reply.json["accepted"])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(send, range(100))) == [20] * 100
    intake = harness.flush()
    assert (intake.applied, intake.duplicate) == (1_000, 1_000)


def test_metrics_count_requests_and_events(service: Service, redis_url: str) -> None:
    def figure(name: str) -> float:
        lines = service.send("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    accepted, refused = 'usage_http_events_total{outcome="accepted"}', 'usage_http_events_total{outcome="refused"}'
    before = [figure(name) for name in (accepted, refused, "usage_http_request_seconds_count")]
    service.post([EVENT, EVENT, {}])
    service.send("GET", "/nowhere")
    after = [figure(name) for name in (accepted, refused, "usage_http_request_seconds_count")]
    # Three requests for figures, which are requests, too, and the two above.
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 3 + 2]
    assert figure('usage_http_requests_total{path="other",status="404"}') >= 1


def test_paths_and_methods_that_do_not_exist(service: Service) -> None:
    assert service.send("GET", "/nowhere").json == {"error": "Not Found"}
    reply = service.send("GET", "/api/v1/events")
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")
    assert service.send("GET", "/readyz").json == {"status": "ok"}
    # A redirect would name whatever host the request names.
    assert service.send("POST", "/api/v1/events/", b"[]", host="evil.example").status == 404
