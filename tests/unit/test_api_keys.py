"""The file of API keys: what it may hold, and that no message quotes it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fraudops.api_keys import ApiKey, digest_of, new_api_key, read_api_keys
from fraudops.errors import SettingsError

KEY = "fo_correct-horse"
ENTRY: dict[str, Any] = {"name": "shop", "sha256": digest_of(KEY).hex(), "scopes": ["predict"]}


def written(folder: Path, content: Any) -> Path:
    path = folder / "keys.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_new_key_is_never_the_same_and_is_found_by_its_digest(tmp_path: Path) -> None:
    keys = {new_api_key() for _ in range(3)}
    assert len(keys) == 3
    assert all(re.fullmatch(r"fo_[A-Za-z0-9_-]{43}", key) for key in keys)
    entries = [{**ENTRY, "sha256": digest_of(key).hex()} for key in keys]
    found = read_api_keys(written(tmp_path, {"keys": entries}))
    assert found.keys() == {digest_of(key) for key in keys}


def test_a_key_is_read_with_all_its_fields(tmp_path: Path) -> None:
    entry = ENTRY | {"expires": "2027-01-01T00:00:00Z", "rate_per_second": 2.5}
    (key,) = read_api_keys(written(tmp_path, {"keys": [entry]})).values()
    assert isinstance(key, ApiKey)
    assert (key.name, key.scopes, key.rate_per_second) == ("shop", ("predict",), 2.5)
    assert str(key.expires) == "2027-01-01 00:00:00+00:00"


@pytest.mark.parametrize(
    "content",
    [
        "",
        '"\\ud800"',
        "[" * 5000,
        {},
        {"keys": [{**ENTRY, "key": KEY}]},
        {"keys": [{**ENTRY, "sha256": KEY}]},
        {"keys": [{**ENTRY, "name": KEY + " "}]},
        {"keys": [{**ENTRY, "scopes": [KEY]}]},
        {"keys": [{**ENTRY, "scopes": []}]},
        {"keys": [{**ENTRY, "scopes": ["admin"]}]},
        {"keys": [{**ENTRY, "expires": "2027-01-01T00:00:00"}]},
        {"keys": [{**ENTRY, "rate_per_second": 0}]},
        {"keys": [ENTRY, {**ENTRY, "name": "other"}]},
    ],
)
def test_a_file_that_is_wrong_is_refused_and_not_quoted(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        read_api_keys(path)
    assert str(path) in str(refused.value)
    assert "correct" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.json cannot be read: No such file"):
        read_api_keys(tmp_path / "none.json")
