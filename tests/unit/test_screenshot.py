"""The pictures of the documents."""

from __future__ import annotations

import struct

from tools.screenshot.__main__ import FOLDER, SIZES


def test_every_picture_can_be_taken_again_in_its_size() -> None:
    """A PNG has its width and height behind the first 16 bytes."""
    assert {file.name: struct.unpack(">II", file.read_bytes()[16:24]) for file in FOLDER.glob("*.png")} == SIZES
