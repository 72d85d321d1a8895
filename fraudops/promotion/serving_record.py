"""The serving record: the one object that says what serves.

Pods follow it, MLflow's alias mirrors it.

Everything here is a pure function from record to record; who stores it, and with which
compare-and-set, is a port.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fraudops.errors import FraudopsError
from fraudops.extensible import Extensible, decode_document, encode_document

Strategy = Literal["broadcast", "rollout"]
STACK_LIMIT = 20
REQUEST_LIMIT = 20


class ServingEntry(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """One version in production: `by` is the request that put it there (the Job's UID), the same
    for all its tries.

    `undo` marks an entry with which a promotion that did not converge went back to the version
    before, `sample` a model of the packaged sample.
    """

    epoch: int
    version: str
    digest: str
    schema_fingerprint: str
    by: str
    at: str
    requested_by: str = ""
    strategy: Strategy = "broadcast"
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None
    sample: bool = False
    undo: bool = False


class Reservation(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """What a promoter is about to commit."""

    epoch: int
    version: str
    digest: str
    schema_fingerprint: str
    strategy: Strategy
    by: str
    at: str
    requested_by: str = ""
    rollback: bool = False
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None
    sample: bool = False


class RecordedRequest(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """A request id with the epoch that its first try reserved."""

    id: str
    epoch: int


class ServingRecord(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """`current` is None before the first promotion;

    `previous` is what it replaced; `stack` holds what served before, newest first: the way back.

    `alias_moved` says where somebody has moved the registry's alias by hand, as the reconciler
    found it. Fields of a later release are kept (`Extensible`).
    """

    current: ServingEntry | None = None
    previous: ServingEntry | None = None
    reserved: Reservation | None = None
    stack: tuple[ServingEntry, ...] = ()
    requests: tuple[RecordedRequest, ...] = ()
    alias_epoch: int = msgspec.field(default=0, name="mirrored")
    alias_moved: str | None = None
    highest_reserved: int = 0

    @property
    def epoch(self) -> int:
        return self.current.epoch if self.current else 0

    @property
    def alias_error(self) -> str | None:
        """How the registry's alias differs from this record, or None when they agree."""
        if self.alias_epoch < self.epoch:
            return f"the registry's alias production does not follow epoch {self.epoch} yet"
        return self.alias_moved

    @property
    def highest_epoch(self) -> int:
        """No epoch is used twice, not even one whose promotion was refused."""
        return max(self.epoch, self.highest_reserved)

    def first_reservation(self, request: str) -> int | None:
        """Return the epoch that this request's first try reserved, or None if it is unknown."""
        return next((known.epoch for known in self.requests if known.id == request), None)


EMPTY = ServingRecord()


class ServingTarget(msgspec.Struct, frozen=True):
    """One model in one epoch: what a pod is asked to prepare, and goes to.

    A pod template's annotation names one as `epoch/version/digest`.
    """

    epoch: int
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.epoch}/{self.version}/{self.digest}"

    @classmethod
    def parse(cls, text: str) -> "ServingTarget | None":
        """None for what is no target: such an annotation is nobody's of us."""
        epoch, _, rest = text.partition("/")
        version, _, digest = rest.partition("/")
        return (
            cls(int(epoch), version, digest)
            if epoch.isdigit() and version and re.fullmatch(r"[0-9a-f]{64}", digest)
            else None
        )


def target_of(record: ServingRecord, template: ServingTarget | None) -> ServingTarget | None:
    """Where the record sends a pod whose template named `template`: there while a rollout has
    reserved exactly it, else to what serves.
    """
    reserved, current = record.reserved, record.current
    if (
        template
        and reserved
        and (reserved.epoch, reserved.digest) == (template.epoch, template.digest)
    ):
        return template
    return ServingTarget(current.epoch, current.version, current.digest) if current else None


def reserve(record: ServingRecord, reservation: Reservation) -> ServingRecord:
    """Return the record with the reservation and with the epoch of the request's first try."""
    requests = record.requests
    if record.first_reservation(reservation.by) is None:
        requests = (RecordedRequest(id=reservation.by, epoch=reservation.epoch), *requests)[
            :REQUEST_LIMIT
        ]
    return msgspec.structs.replace(
        record, reserved=reservation, requests=requests, highest_reserved=reservation.epoch
    )


def commit(record: ServingRecord) -> ServingRecord:
    """Return the record after the commit of its reservation.

    A promotion pushes the entry that served onto the stack. A rollback pops the stack's top.
    """
    reserved = record.reserved
    if reserved is None:
        raise FraudopsError("a record without a reservation was to be committed")
    entry = ServingEntry(
        epoch=reserved.epoch,
        version=reserved.version,
        digest=reserved.digest,
        schema_fingerprint=reserved.schema_fingerprint,
        by=reserved.by,
        at=reserved.at,
        requested_by=reserved.requested_by,
        strategy=reserved.strategy,
        verdict=reserved.verdict,
        waiver=reserved.waiver,
        sample=reserved.sample,
        unknown=reserved.unknown,
    )
    stack = record.stack
    if reserved.rollback:
        stack = stack[1:]
    elif record.current and (record.current.version, record.current.digest) != (
        reserved.version,
        reserved.digest,
    ):
        stack = (record.current, *stack)[:STACK_LIMIT]
    return msgspec.structs.replace(
        record, current=entry, previous=record.current, stack=stack, reserved=None
    )


def undo(record: ServingRecord, epoch: int, at: str) -> ServingRecord:
    """Return the record with a new epoch and the version that the current entry replaced.

    The version that failed never enters the stack.
    """
    failed, previous = record.current, record.previous
    if failed is None or previous is None:
        raise FraudopsError("a first promotion has nothing to go back to")
    entry = msgspec.structs.replace(previous, epoch=epoch, by=failed.by, at=at, undo=True)
    was_rollback = not (record.stack and record.stack[0] == previous)
    stack = (failed, *record.stack) if was_rollback else record.stack[1:]
    return msgspec.structs.replace(
        record, current=entry, previous=stack[0] if stack else None, stack=stack, reserved=None
    )


def release(record: ServingRecord) -> ServingRecord:
    """The record without its reservation: nothing has changed."""
    return msgspec.structs.replace(record, reserved=None)


def alias_synced(record: ServingRecord, epoch: int) -> ServingRecord:
    """The record with the note that the alias of this epoch has been written and read back."""
    return msgspec.structs.replace(record, alias_epoch=epoch, alias_moved=None)


def note_alias(record: ServingRecord, moved: str | None) -> ServingRecord:
    """The record with what the reconciler found of the alias."""
    return msgspec.structs.replace(record, alias_moved=moved)


# In the cluster the record is one key of a ConfigMap.
CONFIG_MAP_KEY = "serving.json"


def config_map_name(release: str) -> str:
    return f"{release}-serving"


class RecordUnreadableError(FraudopsError):
    """The stored record is not one of ours; nothing is guessed from it."""


def encode(record: ServingRecord) -> bytes:
    return encode_document(record)


def of_config_map(found: Mapping[str, Any]) -> ServingRecord:
    """EMPTY when nobody has written into it yet. Raises RecordUnreadableError."""
    data = (found.get("data") or {}).get(CONFIG_MAP_KEY)
    return decode(data.encode()) if data else EMPTY


def decode(data: bytes) -> ServingRecord:
    try:
        return decode_document(data, ServingRecord)
    except msgspec.MsgspecError as error:
        raise RecordUnreadableError(
            f"the serving record cannot be read: {error}. "
            "Restore it from a backup; pods keep serving what they have"
        ) from error
