"""Sealed and hashed features: who can open them, and what they reveal."""

import base64
import secrets
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fraudops.audit.records import decode, encode
from fraudops.errors import SettingsError
from fraudops.feature_encryption import (
    FeatureDecryptor,
    FeaturesUnreadableError,
    Protect,
    protection,
    read_keys,
)
from fraudops.ids import uuid7
from fraudops.settings import DriftJobSettings, InferenceSettings, ShipperSettings
from tests.support.audit_records import prediction

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
FEATURES = {"V1": -1.25, "Amount": 4111111111111111.0}
TEXT = base64.b64encode(KEY).decode()


class StoredRow(msgspec.Struct):
    V1: float
    Amount: float


def protect(how: Literal["sealed", "hashed"], *keys: bytes) -> Protect:
    protector = protection(how, keys or (KEY,))
    assert protector
    return protector


def test_plain_features_are_not_touched() -> None:
    assert protection("plain", (KEY,)) is None


@settings(max_examples=50, deadline=None)
@given(some.dictionaries(some.text(max_size=20), some.floats(allow_nan=False), max_size=40))
def test_sealed_features_open_unchanged_with_the_same_key(features: dict[str, float]) -> None:
    identifier = uuid7()
    assert (
        FeatureDecryptor([KEY]).open(identifier, protect("sealed")(identifier, features))
        == features
    )


def test_a_rows_own_struct_seals_and_hashes_as_the_mapping_does() -> None:
    identifier = uuid7()
    row = StoredRow(**FEATURES)
    assert FeatureDecryptor([KEY]).open(identifier, protect("sealed")(identifier, row)) == FEATURES
    assert protect("hashed")(identifier, row) == protect("hashed")(identifier, FEATURES)


def test_stored_bytes_reveal_neither_features_nor_key() -> None:
    identifier = uuid7()
    for how in ("sealed", "hashed"):
        features = protect(how)(identifier, FEATURES)  # type: ignore[arg-type]
        stored = encode(prediction(id=identifier, features=features))
        for trace in (b"V1", b"Amount", msgspec.msgpack.encode(FEATURES["Amount"])[1:], KEY[:8]):
            assert trace not in stored
        assert decode(stored).features[:1] in (b"\x01", b"\x02")  # type: ignore[union-attr]


def test_the_same_features_seal_differently_and_hash_alike() -> None:
    seal, digest = protect("sealed"), protect("hashed")
    assert len({seal("a", FEATURES) for _ in range(50)}) == 50
    assert digest("a", FEATURES) == digest("b", FEATURES)
    assert digest("a", FEATURES) != digest("a", FEATURES | {"V1": -1.5})
    assert digest("a", FEATURES)[5:] != protect("hashed", OTHER)("a", FEATURES)[5:]


@pytest.mark.parametrize(
    ("keys", "spoil", "reason"),
    [
        ((), lambda stored: stored, "FRAUDOPS_AUDIT__KEY is not set"),
        ((OTHER,), lambda stored: stored, "another key"),
        ((KEY,), lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]), "seal is broken"),
        ((KEY,), lambda stored: stored[:10], "seal is broken"),
        ((KEY,), lambda stored: b"\x09" + stored[1:], "does not know"),
        ((KEY,), lambda stored: b"", "does not know"),
    ],
)
def test_features_that_cannot_be_opened_name_the_reason(
    keys: tuple[bytes, ...], spoil: Any, reason: str
) -> None:
    stored = protect("sealed")("a", FEATURES)
    with pytest.raises(FeaturesUnreadableError, match=reason):
        FeatureDecryptor(keys).open("a", spoil(stored))


def test_the_features_of_one_prediction_do_not_pass_for_anothers() -> None:
    with pytest.raises(FeaturesUnreadableError, match="seal is broken"):
        FeatureDecryptor([KEY]).open("b", protect("sealed")("a", FEATURES))


def test_a_hash_never_opens() -> None:
    with pytest.raises(FeaturesUnreadableError, match="only a keyed hash"):
        FeatureDecryptor([KEY]).open("a", protect("hashed")("a", FEATURES))


def test_an_old_key_still_opens_after_a_new_key_came_first() -> None:
    both = FeatureDecryptor([OTHER, KEY])
    assert both.open("a", protect("sealed", KEY)("a", FEATURES)) == FEATURES
    assert both.open("a", protect("sealed", OTHER, KEY)("a", FEATURES)) == FEATURES
    with pytest.raises(FeaturesUnreadableError):
        FeatureDecryptor([KEY]).open("a", protect("sealed", OTHER, KEY)("a", FEATURES))


def test_keys_are_read_from_base64_with_commas_between() -> None:
    assert read_keys(f"{TEXT}, {base64.b64encode(OTHER).decode()}\n") == (KEY, OTHER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"!{TEXT}",
        "correct-horse",
        base64.b64encode(KEY[:31]).decode(),
        f"{TEXT},",
        f"{TEXT},correct-horse",
    ],
)
def test_a_bad_key_is_refused_by_its_number_and_never_quoted(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"key {text.count(',') + 1} is not 32 bytes") as refusal:
        read_keys(text)
    assert "correct" not in str(refusal.value)
    if text:
        monkeypatch.setenv("FRAUDOPS_AUDIT__KEY", text)
        with pytest.raises(SettingsError, match="FRAUDOPS_AUDIT__KEY") as settings_refusal:
            InferenceSettings.from_environment()
        assert TEXT not in str(settings_refusal.value)
        assert "correct" not in str(settings_refusal.value)


def test_sealing_without_a_key_is_refused_only_by_programs_that_seal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRAUDOPS_AUDIT__FEATURES", "sealed")
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    with pytest.raises(SettingsError, match="set FRAUDOPS_AUDIT__KEY"):
        InferenceSettings.from_environment()
    assert ShipperSettings.from_environment().audit.features == "sealed"
    monkeypatch.setenv("FRAUDOPS_AUDIT__KEY", base64.b64encode(secrets.token_bytes(32)).decode())
    assert InferenceSettings.from_environment().audit.protection()
    assert len(DriftJobSettings.from_environment().audit.keys()) == 1
