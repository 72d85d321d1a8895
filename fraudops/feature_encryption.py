"""The features of an audited prediction as they are kept: whole, sealed, or as a keyed hash.

They are made unreadable in the worker, before the spool: whoever has the disk of a pod, what was
set aside, a hand-over, the table, its exports and its backups, but not the key, has no features.
Doing it in the shipper would keep the key out of the service but leave the features of an
outage, up to the whole spool, on the node's disk as they are.

    kind 1 | key's id 4 | nonce 12 | ciphertext and tag   sealed: AES-256-GCM-SIV (RFC 8452) over the features as msgpack, bound to the prediction's id
    kind 1 | key's id 4 | hash 32                         hashed: BLAKE2b (RFC 7693), keyed, over the same bytes; equal features have equal hashes

GCM-SIV, because nonces are drawn at random and a key may seal 2^32 rows in weeks: a nonce that
comes twice reveals no more than that two rows are equal.
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
Protect = Callable[[str, Any], bytes]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, float])


class FeaturesUnreadableError(FraudopsError):
    """These features cannot be read here; the message says why."""


def read_keys(text: str) -> tuple[bytes, ...]:
    """Keys of 32 bytes in base64, with commas between.

    Raises ValueError, which quotes none of it.
    """
    keys = []
    for number, part in enumerate(text.split(","), 1):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"key {number} is not {KEY_BYTES} bytes in base64: make one with `openssl rand -base64 {KEY_BYTES}`"
            )
        keys.append(key)
    return tuple(keys)


def protection(how: Literal["plain", "sealed", "hashed"], keys: Sequence[bytes]) -> Protect | None:
    """What turns id and features (a dict or msgspec Struct) into what is kept, by the first key;

    None when they are kept as they are.
    """
    if how == "plain":
        return None
    return _sealing(keys[0]) if how == "sealed" else _hashing(keys[0])


def _sealing(key: bytes) -> Protect:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

    encrypt, head = AESGCMSIV(_derived(key, b"fraudops seal")).encrypt, SEALED + _key_id(key)

    def seal(identifier: str, features: Any) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return head + nonce + encrypt(nonce, _encoder.encode(features), identifier.encode())

    return seal


def _hashing(key: bytes) -> Protect:
    own, head = _derived(key, b"fraudops hash"), HASHED + _key_id(key)
    return lambda _identifier, features: (
        head + hashlib.blake2b(_encoder.encode(features), key=own, digest_size=32).digest()
    )


class FeatureDecryptor:
    """Reads what was sealed by any of the keys."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._ciphers: dict[bytes, Any] = {}

    def open(self, identifier: str, kept: bytes) -> dict[str, float]:
        """The features of this prediction. Raises FeaturesUnreadableError."""
        kind, name, rest = kept[:1], kept[1 : 1 + ID_BYTES], kept[1 + ID_BYTES :]
        if kind == HASHED:
            raise FeaturesUnreadableError("only a keyed hash of them is kept")
        if kind != SEALED:
            raise FeaturesUnreadableError("they are kept in a way that this release does not know")
        if name not in self._keys:
            raise FeaturesUnreadableError(
                "they are sealed by another key than FRAUDOPS_AUDIT__KEY"
                if self._keys
                else "they are sealed, and FRAUDOPS_AUDIT__KEY is not set"
            )
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

        if name not in self._ciphers:
            self._ciphers[name] = AESGCMSIV(_derived(self._keys[name], b"fraudops seal"))
        try:
            return _decoder.decode(
                self._ciphers[name].decrypt(
                    rest[:NONCE_BYTES], rest[NONCE_BYTES:], identifier.encode()
                )
            )
        except (InvalidTag, ValueError):
            raise FeaturesUnreadableError(
                "their seal is broken: this is not what was written for this prediction"
            ) from None


def _derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each use of the one that is given."""
    return hashlib.blake2b(key=key, person=purpose, digest_size=KEY_BYTES).digest()


def _key_id(key: bytes) -> bytes:
    return _derived(key, b"fraudops key id")[:ID_BYTES]
