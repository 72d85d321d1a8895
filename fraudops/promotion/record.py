"""The serving record: the one object that says what serves. Pods follow it, MLflow's alias mirrors it.

Everything here is a pure function from record to record; who stores it, and with which compare-and-set, is a port.
"""

from typing import Any, Literal

import msgspec

from fraudops.canonical import canonical_json
from fraudops.errors import FraudopsError

Strategy = Literal["broadcast", "rollout"]
STACK_LIMIT = 20
REQUEST_LIMIT = 20


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version in production: `by` is the request that put it there (the Job's UID), the same for all its tries."""

    epoch: int
    version: str
    digest: str
    schema_fingerprint: str
    by: str
    at: str
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None


class Reservation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a promoter is about to commit."""

    epoch: int
    version: str
    digest: str
    schema_fingerprint: str
    strategy: Strategy
    by: str
    at: str
    rollback: bool = False
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request id with the epoch that its first try reserved."""

    id: str
    epoch: int


class ServingRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`current` is None before the first promotion; `stack` holds what served before, newest first: the way back."""

    current: Entry | None = None
    reserved: Reservation | None = None
    stack: tuple[Entry, ...] = ()
    requests: tuple[Request, ...] = ()
    mirrored: int = 0

    @property
    def epoch(self) -> int:
        return self.current.epoch if self.current else 0

    @property
    def highest_epoch(self) -> int:
        return max(self.epoch, self.reserved.epoch if self.reserved else 0)

    def first_reservation(self, request: str) -> int | None:
        """The epoch that this request's first try reserved, None if it is unknown (or long forgotten)."""
        return next((known.epoch for known in self.requests if known.id == request), None)


EMPTY = ServingRecord()
_decoder = msgspec.json.Decoder(ServingRecord)


class RecordUnreadableError(FraudopsError):
    """The stored record is not one of ours; nothing is guessed from it."""


def encode(record: ServingRecord) -> bytes:
    return canonical_json(record)


def decode(data: bytes) -> ServingRecord:
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise RecordUnreadableError(f"the serving record cannot be read: {error}. Restore it from a backup; pods keep serving what they have") from error
