"""The pieces of words that BERT reads, as numbers, by its vocabulary.

The package `tokenizers` does the same and brings ten others with it. Tests compare the numbers of both. One difference
is wanted: `[CLS]` and its like, written in a text, are ordinary words here.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from usage_worker.errors import EmbedderError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
UNKNOWN, BEGIN, END = 100, 101, 102
LONGEST_WORD = 100
# Of the blocks "CJK Unified Ideographs", its extensions A to E, and "Compatibility Ideographs" with its supplement, as
# in BERT. Each such character is a word.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_CONTROLS = {"Cc", "Cf", "Co"}
_SPACE = " "


def numbers_of(text: str, most: int) -> list[int]:
    """Return the numbers of a text's pieces, between those of its two ends; `most` in all, the rest is cut off."""
    numbers = [BEGIN]
    for word in _words(text):
        numbers += _pieces(word)
        if len(numbers) >= most:
            break
    return [*numbers[: most - 1], END]


def _words(text: str) -> Iterator[str]:
    plain = "".join(map(_cleaned, text))
    bare = "".join(it for it in unicodedata.normalize("NFD", plain) if unicodedata.category(it) != "Mn")
    # One character at a time: `lower` of a whole text writes the last sigma of a word in another way.
    return iter("".join(map(_separated, bare)).split())


@lru_cache(maxsize=4096)
def _cleaned(character: str) -> str:
    """Return a character without controls, any white space as a space, and an ideograph as a word."""
    if character in "\t\n\r":
        return _SPACE
    if character == "\ufffd" or unicodedata.category(character) in _CONTROLS:
        return ""
    if character.isspace():
        return _SPACE
    return f" {character} " if any(first <= ord(character) <= last for first, last in _IDEOGRAPHS) else character


@lru_cache(maxsize=4096)
def _separated(character: str) -> str:
    """Return a character in lower case, punctuation as a word."""
    is_sign = character.isascii() and character.isprintable() and not character.isalnum() and character != _SPACE
    if is_sign or unicodedata.category(character).startswith("P"):
        return f" {character} "
    return character.lower()


@lru_cache(maxsize=65_536)
def _pieces(word: str) -> tuple[int, ...]:
    """Return the numbers of the longest pieces that the word consists of, from its beginning."""
    if len(word) > LONGEST_WORD:
        return (UNKNOWN,)
    vocabulary, numbers, start = _vocabulary(), [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return (UNKNOWN,)
        numbers.append(vocabulary[piece])
        start = end
    return tuple(numbers)


@cache
def _vocabulary() -> dict[str, int]:
    """Read the vocabulary; see vocab.NOTICE."""
    content = files("usage_worker.embedders").joinpath("vocab.txt").read_bytes()
    if sha256(content).hexdigest() != SHA256:
        raise EmbedderError("vocab.txt of this installation is damaged; install usage-worker again")
    return {piece: number for number, piece in enumerate(content.decode().split("\n")[:-1])}
