"""What a signing key still holds in production: the check before `fraudops keys retire`."""

from collections.abc import Iterator
from dataclasses import dataclass

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.changes import way_back
from fraudops.promotion.ports import Records
from fraudops.promotion.serving_record import ModelRef, ServingRecord
from fraudops.signing.credentials import needs_key
from fraudops.signing.key_list import KeyEntry
from fraudops.signing.keys import PublicKeys, Purpose, short
from jobs.runner import warn


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
            yield f"version {self.serving} (it serves)"
        if self.way_back:
            yield f"version {self.way_back} (the way back of a rollback)"
        if self.reserved:
            yield f"version {self.reserved} (it is being promoted now)"

    def steps(self, purpose: Purpose, options: str) -> str:
        """Return what to do, as a part of a sentence; `options` end each command."""
        steps = ["wait until the promotion under way has ended"] if self.reserved else []
        if self.serving or self.way_back:
            # The last version that is promoted serves, so the way back comes first.
            first, *more = filter(None, (self.way_back, self.serving or self.current))
            then = f", then the same for version {more[0]}" if more else ""
            if purpose == "waiver":
                sign = f"`fraudops promote --version {first} --force --reason TEXT{options}`"
                other = "that have a passing verdict"
                if more and not self.serving:
                    then = f", then `fraudops promote --version {more[0]}{options}`"
            else:
                sign = (
                    f"`fraudops validate --version {first}{options}` and "
                    f"`fraudops promote --version {first}{options}`"
                )
                other = "whose verdict another key signed"
            steps.append(f"let another key sign: {sign}{then} (or promote other versions {other})")
        return "; then ".join(steps)


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


async def check_use(
    records: Records, keys: PublicKeys, entry: KeyEntry, options: str, leaked: bool
) -> None:
    """Refuse a key that production needs; with `leaked` only warn.

    `options` end each command that a message names.
    No lock is held, so a promotion that starts after this read may still use the key. Then its pods
    refuse the version while they prepare it.
    Raises RefusedError, and StoreDownError when the serving record cannot be read.
    """
    try:
        record = await _read_record(records)
    except FraudopsError as error:
        unknown = f"the versions that need the key {short(entry.id)} are unknown: {error}"
        if not leaked:
            raise StoreDownError(
                f"{unknown}. Try again when the serving record can be read. A key that has leaked "
                "can be retired now, with --leaked"
            ) from error
        warn(f"{unknown}. Look at what serves: `fraudops status{options}`")
        return
    use = key_use(record, entry.id, keys)
    if use.is_needed and not leaked:
        raise RefusedError(
            f"{needed_message(entry, use)}. First {use.steps(entry.purpose, options)}. Then run "
            'this command again (see "Keys" in docs/signing.md). A key that has leaked can be '
            "retired now, with --leaked"
        )
    if use.is_needed:
        now = use.steps(entry.purpose, options)
        warn(f"{needed_message(entry, use)}. Now {now}. Do not restart a pod before that")
    if use.older:
        warn(
            f"the rollbacks after the next one are refused where they reach version "
            f"{', '.join(use.older)}, which this key signed. Validate such a version before you "
            "promote it again"
        )


async def _read_record(records: Records) -> ServingRecord:
    record, token = await records.read()
    # The setup Job makes the ConfigMap. Without it the pods serve on, so no version is free.
    if token is None:
        raise StoreDownError("the ConfigMap of the serving record does not exist")
    return record
