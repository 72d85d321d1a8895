"""ECDSA P-256 keys: the private key of one signer, and the public keys that a release trusts.

The folder of public keys holds `verdict*.pem` and `waiver*.pem`. All keys of a purpose are valid,
so that an operator can add a new key, sign with it, and remove the old one later.

The id of a key is the sha256 of its public PEM file, as hex digits. `model_signing` writes the
same id into a signature.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fraudops.canonical import sha256_bytes
from fraudops.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

Purpose = Literal["verdict", "waiver"]
KEY_ID = re.compile(r"[0-9a-f]{64}")
_CURVE = "secp256r1"
_PEM_BLOCK = b"-----BEGIN "


@dataclass(frozen=True)
class PublicKey:
    """A public key, its PEM file, and its id."""

    id: str
    pem: bytes = field(repr=False)
    _key: "EllipticCurvePublicKey" = field(repr=False, compare=False)

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Whether this key's private half signed the sha256 of `data`; `signature` is DER."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            self._key.verify(signature, data, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """The key of a signer. Its representation shows only the id."""

    public: PublicKey
    _key: "EllipticCurvePrivateKey" = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """Sign the sha256 of `data`; return the signature as DER."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._key.sign(data, ECDSA(SHA256()))

    def pem(self) -> bytes:
        """Return the content of the key's file: PKCS8 without a password."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of a release, by purpose."""

    verdict: tuple[PublicKey, ...]
    waiver: tuple[PublicKey, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "PublicKeys":
        """Read a folder of public keys. Waivers need no key, because a release may forbid them.

        Raises SettingsError for a key that cannot be read, for no verdict key, and for a key of
        both purposes.
        """
        keys = cls(_read_all(folder, "verdict"), _read_all(folder, "waiver"))
        if not keys.verdict:
            raise SettingsError(
                f"the folder of public keys {folder} holds no file verdict*.pem: "
                "put the public key of `validate` there, or correct "
                "FRAUDOPS_SIGNING__PUBLIC_KEYS"
            )
        # Otherwise the key of `validate`, which every pipeline run holds, could waive its gates.
        if both := {key.id for key in keys.verdict} & {key.id for key in keys.waiver}:
            raise SettingsError(
                f"the folder of public keys {folder} holds the key {short(min(both))} both as a "
                "verdict key and as a waiver key: make a key of its own for waivers"
            )
        return keys

    def of(self, purpose: Purpose) -> tuple[PublicKey, ...]:
        return self.verdict if purpose == "verdict" else self.waiver

    def without(self, key_id: str) -> "PublicKeys":
        """Return the keys that remain when the key with this id is no longer valid."""
        return PublicKeys(
            tuple(key for key in self.verdict if key.id != key_id),
            tuple(key for key in self.waiver if key.id != key_id),
        )


def new_key() -> PrivateKey:
    """Make a key. It exists only in memory."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return _private(ec.generate_private_key(ec.SECP256R1()))


def read_private_key(path: Path) -> PrivateKey:
    """Read the PEM file of a private key without a password. Raises as `parse_private_key`."""
    return parse_private_key(_content(path, "private"), str(path))


def parse_private_key(data: bytes, source: str) -> PrivateKey:
    """Return the private key of a PEM text without a password; messages name its `source`.

    Raises SettingsError, which quotes no part of the text.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise _unusable(source, "private", "it has a password: write it without one") from None
    # The library's messages may quote the file, so none of them goes on.
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(source, "private", "it is not a PEM file of a private key") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != _CURVE:
        raise _unusable(source, "private", "it is not of the kind ECDSA P-256")
    return _private(key)


def read_public_key(path: Path) -> PublicKey:
    """Read the PEM file of one public key. Raises SettingsError."""
    return parse_public_key(_content(path, "public"), str(path))


def parse_public_key(data: bytes, source: str) -> PublicKey:
    """Return the public key of a PEM text; messages name its `source`. Raises SettingsError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in data:
        # Every pod mounts this folder.
        raise _unusable(
            source, "public", "it holds a private key: replace that key, which is no longer secret"
        )
    # The library would read the first block and skip the others without a word.
    if data.count(_PEM_BLOCK) > 1:
        raise _unusable(source, "public", "it holds several keys: write a file for each")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(source, "public", "it is not a PEM file of a public key") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise _unusable(source, "public", "it is not of the kind ECDSA P-256")
    return _public(key)


def public_file(purpose: Purpose, key: PublicKey) -> str:
    """Return the name of a key's file in the folder of public keys."""
    return f"{purpose}-{short(key.id)}.pem"


def short(key_id: str) -> str:
    """Return the first 12 digits of a key's id, for messages."""
    return key_id[:12]


def named(keys: Sequence[PublicKey]) -> str:
    """Return the ids of keys for a message."""
    return ", ".join(short(key.id) for key in keys) or "none"


def _read_all(folder: Path, purpose: Purpose) -> tuple[PublicKey, ...]:
    """Read the keys of a purpose, each once, in the order of their files' names."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise SettingsError(
            f"the folder of public keys {folder} cannot be read ({error.strerror}): "
            "give --state FOLDER of `fraudops up`, or set FRAUDOPS_SIGNING__PUBLIC_KEYS to a "
            "folder that holds verdict*.pem"
        ) from error
    chosen = (name for name in names if name.startswith(purpose) and name.endswith(".pem"))
    keys = (read_public_key(folder / name) for name in chosen)
    return tuple({key.id: key for key in keys}.values())


def _private(key: "EllipticCurvePrivateKey") -> PrivateKey:
    return PrivateKey(_public(key.public_key()), key)


def _public(key: "EllipticCurvePublicKey") -> PublicKey:
    from cryptography.hazmat.primitives import serialization

    # Encoded again: line ends and comments of a file do not change the id.
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublicKey(sha256_bytes(pem), pem, key)


def _content(path: Path, half: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(str(path), half, f"it cannot be read: {error.strerror}") from error


def _unusable(source: str, half: str, why: str) -> SettingsError:
    return SettingsError(f"the {half} key {source} cannot be used: {why}")
