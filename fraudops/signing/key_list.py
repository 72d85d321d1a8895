"""The keys of one installation as a list: which are valid, and which one signs now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from fraudops.errors import RefusedError, SettingsError
from fraudops.signing.keys import PublicKey, PublicKeys, Purpose, short


@dataclass(frozen=True)
class KeyEntry:
    """One public key. `file` is its name in the folder or Secret of public keys.

    `signs` is true if its private half is the one that signs now.
    """

    purpose: Purpose
    id: str
    file: str
    signs: bool


def entries(
    public: Mapping[str, PublicKey], signing: Mapping[Purpose, PublicKey]
) -> list[KeyEntry]:
    """Return the public keys by file name, as a list in the order of purposes and names.

    `signing` has the public half of each private key. A private key whose public half is missing is
    an entry without a file: nothing that it signs is valid.
    """
    found = [
        KeyEntry(purpose, key.id, name, signing.get(purpose) == key)
        for purpose in get_args(Purpose)
        for name, key in sorted(public.items())
        if name.startswith(purpose)
    ]
    valid = {(entry.purpose, entry.id) for entry in found}
    orphans = [
        KeyEntry(purpose, key.id, "", True)
        for purpose, key in signing.items()
        if (purpose, key.id) not in valid
    ]
    return found + orphans


def public_keys(public: Mapping[str, PublicKey]) -> PublicKeys:
    """Return the public keys by file name as the keys that a release trusts."""
    return PublicKeys(
        tuple(key for name, key in public.items() if name.startswith("verdict")),
        tuple(key for name, key in public.items() if name.startswith("waiver")),
    )


def key_to_retire(known: Sequence[KeyEntry], start: str) -> list[KeyEntry]:
    """Return the entries of the key whose id begins with `start`; a key may have several files.

    Raises SettingsError if there is no such key, or more than one, and RefusedError for a key that
    signs now.
    """
    matching = [entry for entry in known if entry.file and entry.id.startswith(start.lower())]
    if not start or len({entry.id for entry in matching}) != 1:
        raise SettingsError(
            f"{'several keys begin' if matching and start else 'no key begins'} with {start!r}; "
            f"the valid keys: {_named(entry for entry in known if entry.file)}"
        )
    for entry in matching:
        if entry.signs:
            raise RefusedError(
                f"the {entry.purpose} key {short(entry.id)} signs now, so retiring it would refuse "
                f"every new {entry.purpose}: run `fraudops keys rotate {entry.purpose}` before"
            )
    return matching


def _named(known: Iterable[KeyEntry]) -> str:
    return ", ".join(f"{entry.purpose} {short(entry.id)}" for entry in known) or "none"
