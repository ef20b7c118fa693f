"""How sizes are written."""

from __future__ import annotations

import pytest

from usage_worker.wording import short_bytes


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (99.96 * 2**10, "100 KiB"),
        (1023.4 * 2**10, "1,023 KiB"),
        (2**20 - 1, "1 MiB"),
        (2**30 - 1, "1 GiB"),
        (2**40 - 1, "1 TiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_size_has_the_largest_unit_of_which_there_is_one(number: float, text: str) -> None:
    assert short_bytes(number) == text
