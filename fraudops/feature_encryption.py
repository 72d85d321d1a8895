"""Encryption of the features of audited predictions: plain, sealed (encrypted), or hashed.

Features are encrypted or hashed in the worker, before they reach the spool. Without the key they
cannot be read from a pod's disk, dead letters, handovers, the table, exports or backups. Encrypting
in the shipper would keep the key out of the service. But during an outage it would leave up to a
whole spool of plain features on the node's disk.

    sealed: kind 1 | key id 4 | nonce 12 | ciphertext and tag
    hashed: kind 1 | key id 4 | hash 32

Sealed features are the msgpack of the features under AES-256-GCM-SIV (RFC 8452), bound to the id of
the prediction. Nonces are random, and one key may seal 2^32 rows within weeks. With GCM-SIV a
repeated nonce only reveals whether two rows are equal; with GCM it would break the encryption.

Hashed features are the keyed BLAKE2b (RFC 7693) of the same bytes. Equal features have equal
hashes.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from fraudops.errors import FraudopsError

SEALED, HASHED = b"\x01", b"\x02"
KEY_BYTES, ID_BYTES, NONCE_BYTES = 32, 4, 12
# Takes the id of a prediction and its features (a dict or a msgspec Struct).
Protect = Callable[[str, Any], bytes]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, float])


class FeaturesUnreadableError(FraudopsError):
    """The features cannot be read; the message says why."""


def read_keys(text: str) -> tuple[bytes, ...]:
    """Parse keys of 32 bytes in base64, separated by commas.

    Raises ValueError, which quotes no part of the text.
    """
    keys = []
    for number, part in enumerate(text.split(","), 1):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"key {number} is not {KEY_BYTES} bytes in base64: make one with "
                f"`openssl rand -base64 {KEY_BYTES}`"
            )
        keys.append(key)
    return tuple(keys)


def protection(how: Literal["plain", "sealed", "hashed"], keys: Sequence[bytes]) -> Protect | None:
    """Return the function that seals or hashes features with the first key.

    Returns None for `plain`: the features are stored as they are.
    """
    if how == "plain":
        return None
    return _sealing(keys[0]) if how == "sealed" else _hashing(keys[0])


def _sealing(key: bytes) -> Protect:
    # Imported here, because only sealing needs the package.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

    encrypt, head = AESGCMSIV(_derived(key, b"fraudops seal")).encrypt, SEALED + _key_id(key)

    def seal(identifier: str, features: Any) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return head + nonce + encrypt(nonce, _encoder.encode(features), identifier.encode())

    return seal


def _hashing(key: bytes) -> Protect:
    hash_key, head = _derived(key, b"fraudops hash"), HASHED + _key_id(key)
    return lambda _identifier, features: (
        head + hashlib.blake2b(_encoder.encode(features), key=hash_key, digest_size=32).digest()
    )


class FeatureDecryptor:
    """Decrypts features that were sealed with any of the keys."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._ciphers: dict[bytes, Any] = {}

    def open(self, identifier: str, kept: bytes) -> dict[str, float]:
        """Return the features of the prediction. Raises FeaturesUnreadableError."""
        kind, key_id, rest = kept[:1], kept[1 : 1 + ID_BYTES], kept[1 + ID_BYTES :]
        if kind == HASHED:
            raise FeaturesUnreadableError("only a keyed hash of them is kept")
        if kind != SEALED:
            raise FeaturesUnreadableError("they are kept in a form that this release does not know")
        if key_id not in self._keys:
            raise FeaturesUnreadableError(
                "they are sealed by another key than FRAUDOPS_AUDIT__KEY"
                if self._keys
                else "they are sealed, and FRAUDOPS_AUDIT__KEY is not set"
            )
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

        if key_id not in self._ciphers:
            self._ciphers[key_id] = AESGCMSIV(_derived(self._keys[key_id], b"fraudops seal"))
        cipher, nonce, sealed = self._ciphers[key_id], rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        try:
            return _decoder.decode(cipher.decrypt(nonce, sealed, identifier.encode()))
        except (InvalidTag, ValueError):
            raise FeaturesUnreadableError(
                "their seal is broken: they were changed, or belong to another prediction"
            ) from None


def _derived(key: bytes, purpose: bytes) -> bytes:
    """Derive the key for one purpose, so that no key is used for two."""
    return hashlib.blake2b(key=key, person=purpose, digest_size=KEY_BYTES).digest()


def _key_id(key: bytes) -> bytes:
    return _derived(key, b"fraudops key id")[:ID_BYTES]
