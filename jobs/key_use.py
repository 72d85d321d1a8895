"""What a signing key still holds in production: the check before `fraudops keys retire`."""

from collections.abc import Iterator
from dataclasses import dataclass

from fraudops.promotion.changes import way_back
from fraudops.promotion.serving_record import ModelRef, ServingRecord
from fraudops.signing.credentials import needs_key
from fraudops.signing.key_list import KeyEntry
from fraudops.signing.keys import PublicKeys, short


@dataclass(frozen=True)
class KeyUse:
    """The versions that could not serve without one key.

    `reserved` is about to serve, `serving` serves, and `way_back` is what a rollback takes. `older`
    are further entries of the stack. `current` is the version that serves, with any key.
    """

    reserved: str | None
    serving: str | None
    way_back: str | None
    older: tuple[str, ...]
    current: str | None

    @property
    def is_needed(self) -> bool:
        """Whether production changes when the key is retired. Older entries do not count."""
        return any((self.reserved, self.serving, self.way_back))

    def versions(self) -> Iterator[str]:
        """Yield what needs the key, as parts of a sentence."""
        if self.serving:
            yield f"version {self.serving}, which serves"
        if self.way_back:
            yield f"version {self.way_back}, to which a rollback goes back"
        if self.reserved:
            yield f"version {self.reserved}, which is being promoted now"

    def steps(self, options: str) -> str:
        """Return what to do before the key is retired; `options` end each command."""
        # The last version that is promoted serves, so the way back comes first.
        again = [found for found in (self.way_back, self.serving or self.current) if found]
        wait = "Wait until the promotion under way has ended. " if self.reserved else ""
        if not (self.way_back or self.serving):
            return f"{wait}Then run this command again"
        first = again[0]
        then = f", then the same for version {again[1]}" if len(again) > 1 else ""
        return (
            f"{wait}First validate and promote again, so that another key signs: `fraudops "
            f"validate --version {first}{options}` and `fraudops promote --version "
            f"{first}{options}`{then}. Or promote other versions that another key signed, until no "
            'version named here needs the key. See "Keys" in docs/signing.md'
        )


def key_use(record: ServingRecord, key_id: str, keys: PublicKeys) -> KeyUse:
    """Return which entries of the record need the key, by verifying them with and without it."""

    back = way_back(record)
    further = (entry for entry in record.stack if entry is not back)
    older = (_needing(entry, key_id, keys) for entry in further)
    return KeyUse(
        reserved=_needing(record.reserved, key_id, keys),
        serving=_needing(record.current, key_id, keys),
        way_back=_needing(back, key_id, keys),
        older=tuple(dict.fromkeys(version for version in older if version)),
        current=record.current.version if record.current else None,
    )


def _needing(ref: ModelRef | None, key_id: str, keys: PublicKeys) -> str | None:
    """Return the version of the entry if it needs the key."""
    if ref is None or not needs_key(key_id, ref.credentials, ref.version, ref.digest, keys):
        return None
    return ref.version


def needed_message(entry: KeyEntry, use: KeyUse) -> str:
    """Say which versions need the key, and what happens to them without it."""
    parts = list(use.versions())
    named = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
    return (
        f"the {entry.purpose} key {short(entry.id)} signed a {entry.purpose} of {named}. Without "
        "the key, pods that start and rollbacks refuse them"
    )
