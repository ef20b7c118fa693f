"""Whole entries as text: whatever their fields hold, exactly the same fields are restored."""

from __future__ import annotations

import json
import os
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_worker.queue import kept as module
from usage_worker.queue.entry import RawEntry, key_of
from usage_worker.queue.kept import fields_of, is_cut, kept, restored

STREAM, ENTRY_ID = "usage:events:{0}", "1-0"
KEY = UUID(int=7)

SCRAPS = [
    *(b"base64:/w==", b"zlib:", b"cut:x", b"cut", b"zlib", b"base64", b"[]", b'{"v": "1"}', b"[1", b"\x00", b"1", b"2"),
    str(KEY).encode(),
]
values = st.binary(max_size=20) | st.text(max_size=10).map(str.encode) | st.sampled_from(SCRAPS)
entries = st.dictionaries(st.sampled_from([b"v", b"n", b"id", b"events"]) | values, values, min_size=1, max_size=6)
canonical = st.fixed_dictionaries(
    {b"v": st.just(b"1"), b"n": st.sampled_from([b"1", b"2", b"02"]), b"events": values},
    optional={b"id": st.sampled_from([str(KEY).encode(), KEY.hex.encode(), b"x"])},
)


@given(entries | canonical, st.integers(1, 2))
def test_any_entry_is_restored(fields: dict[bytes, bytes], events: int) -> None:
    raw = RawEntry(ENTRY_ID, fields)
    key = key_of(STREAM, raw)
    text = kept(STREAM, raw, key, events)
    assert text.isascii()
    assert "\x00" not in text
    assert restored(text, STREAM, ENTRY_ID, key, events) == fields


def test_plain_body_is_kept_as_it_is() -> None:
    fields = {b"v": b"1", b"n": b"2", b"events": b'[{"user_id": 1'}
    raw = RawEntry(ENTRY_ID, fields)
    assert kept(STREAM, raw, key_of(STREAM, raw), 2) == '[{"user_id": 1'


def test_large_values_are_compressed() -> None:
    fields: dict[bytes, bytes] = {b"v": b"1", b"events": b"0," * 2**22, b"random": os.urandom(2**20 + 1)}
    text = kept(STREAM, RawEntry(ENTRY_ID, fields), KEY, 1)
    assert len(text) < 2**21
    assert not is_cut(text)
    assert fields_of(json.loads(text)) == fields


def test_what_is_too_large_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 2**20)
    text = kept(STREAM, RawEntry(ENTRY_ID, {b"events": os.urandom(2**21)}), KEY, 1)
    assert len(text) < 2**21
    assert is_cut(text)
    with pytest.raises(ValueError, match="too large"):
        restored(text, STREAM, ENTRY_ID, KEY, 1)


@pytest.mark.parametrize("content", [{"user_id": 1}, {"positions": [1], "events": [{}]}])
def test_dead_letter_of_events_is_no_entry(content: Any) -> None:
    with pytest.raises(ValueError, match="not a whole entry"):
        fields_of(content)
