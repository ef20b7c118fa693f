"""API keys, and the setting that has their entries."""

from __future__ import annotations

import pytest

from usage_worker.errors import SettingsError
from usage_worker.http.keys import Right, find_key, make_key, parse_keys

SECRET = "s3cretword"
DIGEST = "0" * 64


def test_new_key_is_found_by_its_entry() -> None:
    (key, entry), (_, other) = make_key("shop", Right.WRITE), make_key("billing", Right.READ)
    assert str(entry).startswith("shop:write:")
    assert str(other).startswith("billing:read:")
    assert key not in str(entry)
    keys = parse_keys(f"{entry}, {other},")
    assert keys == [entry, other]
    assert find_key(keys, key) == entry
    assert find_key(keys, SECRET) is None


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a" * 65, "é"])
def test_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="up to 64 letters"):
        make_key(name, Right.WRITE)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (SECRET, "entry 1 is not"),
        (f"a:write:{SECRET}", "entry 1 is not"),
        (f"a:read:{DIGEST}, a:admin:{DIGEST}", "entry 2 is not"),
        (f"a:read:{DIGEST}, a:write:{'1' * 64}", "two entries have the same name"),
        (f"a:read:{DIGEST}, b:write:{DIGEST}", "or the same key"),
    ],
)
def test_wrong_setting_is_refused_and_not_quoted(setting: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as error:
        parse_keys(setting)
    assert "USAGE_API_KEYS" in str(error.value)
    assert SECRET not in str(error.value)
