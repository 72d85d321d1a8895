"""API keys of the service's clients: the file of their hashes, and new keys.

The file never holds a key. A key has 256 random bits, so a plain SHA-256 is enough.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fraudops.canonical import decode_json
from fraudops.errors import SettingsError
from fraudops.files import write_atomically

PREFIX = "fo_"
NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")
Scope = Literal["predict", "feedback", "read"]


class ApiKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One key of the file; `name` is the client. Several keys of one name rotate a key.

    `sha256` is in hexadecimal digits. Without `expires`, the key is valid until it is removed.
    """

    name: Annotated[str, msgspec.Meta(pattern=rf"\A{NAME.pattern}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    rate_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None

    @property
    def id(self) -> str:
        """The start of the hash: enough to name a key, and no help to find it."""
        return self.sha256[:12]


class ApiKeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    keys: tuple[ApiKey, ...]


def new_api_key() -> str:
    """Return a new key: the prefix and 43 characters of base64url, which are 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """Return the SHA-256 of a key: 32 bytes. The file has them in hexadecimal digits."""
    return hashlib.sha256(key.encode()).digest()


def read_api_keys(path: Path) -> dict[bytes, ApiKey]:
    """Return the keys of a file by their digests.

    Raises SettingsError, which names the file and quotes nothing of it.
    """
    try:
        keys = decode_json(path.read_bytes(), ApiKeyFile).keys
    except OSError as error:
        raise SettingsError(f"the API keys {path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        # `from None`: the message of the cause may quote a key that was pasted into the file.
        raise SettingsError(f"{path} is no file of API keys: make it again") from None
    found = {bytes.fromhex(key.sha256): key for key in keys}
    if len(found) < len(keys):
        raise SettingsError(f"{path} has one API key twice: remove one of the two")
    return found


def write_api_keys(path: Path, keys: Iterable[ApiKey]) -> None:
    """Replace the file of API keys; only its owner may read it. Raises SettingsError."""
    # One key a line, so that a diff of the file shows which key is new.
    lines = ",\n  ".join(msgspec.json.encode(key).decode() for key in keys)
    content = f'{{"keys": [\n  {lines}\n]}}\n' if lines else '{"keys": []}\n'
    try:
        write_atomically(path, content.encode(), durable=True, private=True)
    except OSError as error:
        raise SettingsError(f"the API keys {path} cannot be written: {error.strerror}") from None
