"""The pieces of words equal those of the package `tokenizers`, which LiteLLM brings into this environment."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from tokenizers.implementations import BertWordPieceTokenizer

from usage_worker.embedders.word_pieces import numbers_of

EVALUATION = Path(__file__).parents[1] / "evaluation"
MOST = 256
# Every character from here on, in the tables of Unicode that both know.
RANGES = ((0x20, 0x378), (0x400, 0x530), (0x2000, 0x2E00), (0x3000, 0x3130), (0x4E00, 0x5200), (0x1F300, 0x1F700))
SPECIMENS = (
    "",
    " ",
    "Grüße aus Köln, Straße 5 \u2013 naïve Café résumé",
    "ÄÖÜ äöü ß ẞ İstanbul \u0131l\u0131k Ångström Dvořák Łódź",
    "ΣΊΣΥΦΟΣ σίσυφος",
    "Привет, как дела?",
    "北京助手 answers 问题 about 上海。",
    "日本語のテキスト、カタカナ ｶﾀｶﾅ",
    "한국어 텍스트",
    "ไทย हिन्दी नमस्ते",
    "שלום עולם مرحبا بالعالم",
    "👩🏽‍💻 codes 🚀🚀 and 🇩🇪 flags ❤️",
    "x" * 100,
    "x" * 101,
    "Donaudampfschifffahrtsgesellschaftskapitän" * 3,
    "tab\tnewline\nreturn\rnull\x00bell\x07escape\x1b[31mred\x7f",
    "vertical\x0btab form\x0cfeed unit\x1fseparator next\x85line",
    "nbsp\u00a0thin\u2009zero\u200bwidth\u200djoiner soft\u00adhyphen bom\ufeff \ufffd",
    "line\u2028separator paragraph\u2029separator",
    "e\u0301 combining a\u0308\u0323 accents",
    "C++ & C#, .NET; $100 ^_^ `code` ~home <tag> a=b|c {d} [e] (f) \\g /h %i @j",
    "don't O'Connor's l'été “quotes” \u2018single\u2019 «guillemets» …",
    "1,234.56 3.14e-10 0x1F FI-4711 v2.0.1",
    "https://example.com/path?q=1&r=2#s user@example.com",
    "ﬁ ligature Ⅷ ½ ² ℃ ™",
    "word " * 400,
    "a" * 3000,
)


@pytest.fixture(scope="module")
def reference() -> BertWordPieceTokenizer:
    with as_file(files("usage_worker.embedders") / "vocab.txt") as vocabulary:
        tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.enable_truncation(MOST)
    return tokenizer


def _sentences() -> list[str]:
    files_of = [EVALUATION / name for name in ("agents.json", "agents_with_codes.json", "queries.json", "names.json")]
    items = [item for file in files_of for item in json.loads(file.read_text("utf-8"))]
    return [item.get("query") or f"{item['name']}. {item['description']}" for item in items]


def test_texts_have_the_same_pieces(reference: BertWordPieceTokenizer) -> None:
    texts = [*SPECIMENS, *_sentences()]
    assert len(texts) > 150
    assert {text: numbers_of(text, MOST) for text in texts} == {text: reference.encode(text).ids for text in texts}


def test_characters_have_the_same_pieces(reference: BertWordPieceTokenizer) -> None:
    texts = [f"a{chr(place)}b" for first, end in RANGES for place in range(first, end)]
    assert [text for text in texts if numbers_of(text, MOST) != reference.encode(text).ids] == []


def test_special_words_in_a_text_are_ordinary(reference: BertWordPieceTokenizer) -> None:
    assert reference.encode("[CLS]").ids == [101, 101, 102]
    assert numbers_of("[CLS]", MOST) == reference.encode("[ CLS ]").ids
