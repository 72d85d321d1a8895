"""The serving record: the one object that says what serves.

Pods follow it, and the registry's alias mirrors it. Everything here is a pure function from record
to record. A port stores it by compare-and-set.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fraudops.errors import FraudopsError
from fraudops.extensible import Extensible, decode_document, encode_document
from fraudops.promotion.attempt import UNCOMMITTED, Act, Attempt, Strategy
from fraudops.signing.credentials import Credentials
from fraudops.signing.verdicts import SignedVerdict

# Format 1 is that of release 0.2.0, whose records have no number.
FORMAT = 2
STACK_LIMIT = 20
REQUEST_LIMIT = 20
# An outcome has about 500 bytes, and a ConfigMap may have 1 MiB.
UNWRITTEN_LIMIT = 500
# How listings mark what release 0.2.0 promoted, which signs nothing.
UNSIGNED = "unsigned, from before"


class ServingTarget(msgspec.Struct, frozen=True):
    """What an epoch means: the model that a pod prepares and serves in it.

    A pod template's annotation names one as `epoch/version/digest`.
    """

    epoch: int
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.epoch}/{self.version}/{self.digest}"

    @classmethod
    def parse(cls, text: str) -> "ServingTarget | None":
        """Return the target that an annotation names, or None for any other text."""
        epoch, _, rest = text.partition("/")
        version, _, digest = rest.partition("/")
        return (
            cls(int(epoch), version, digest)
            if re.fullmatch(r"[0-9]{1,15}", epoch)
            and version
            and re.fullmatch(r"[0-9a-f]{64}", digest)
            else None
        )


class ModelRef(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """A registered model version, with the verdict or waiver that let it through the gate.

    `sample` means that it was trained on the packaged sample. `verdict` and `waiver` are for
    display: only the signed ones prove anything. `signed_waiver` is the text of a sigstore bundle.
    `unsigned` marks what release 0.2.0 promoted, before verdicts were signed.
    """

    version: str
    digest: str
    schema_fingerprint: str
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None
    sample: bool = False
    signed_verdict: SignedVerdict | None = None
    signed_waiver: str | None = None
    unsigned: bool = False

    @property
    def credentials(self) -> Credentials:
        """The signed statements, in the form in which pods keep them."""
        return Credentials(
            signed_verdict=self.signed_verdict,
            signed_waiver=self.signed_waiver,
            unsigned=self.unsigned,
        )

    @property
    def signer(self) -> str | None:
        """The id of the key that signed the verdict, as the promotion that verified it noted it."""
        return _noted_signer(self.verdict)

    def is_signed_by_keys_of(self, other: "ModelRef") -> bool:
        """Whether the same keys signed both verdicts, and both waivers if there are two."""
        waivers = {_noted_signer(self.waiver), _noted_signer(other.waiver)} - {None}
        return self.signer == other.signer and len(waivers) < 2

    @property
    def model(self) -> "ModelRef":
        """The model alone, without the act that an entry or a reservation adds."""
        return ModelRef(**self.model_fields())

    def model_fields(self) -> dict[str, Any]:
        """Return the fields of the model, to build an entry or a reservation from."""
        return {name: getattr(self, name) for name in _MODEL_FIELDS}

    def is_same_model(self, other: "ModelRef | None") -> bool:
        return other is not None and (self.version, self.digest) == (other.version, other.digest)


def _noted_signer(shown: dict[str, Any] | None) -> str | None:
    signer = (shown or {}).get("signer")
    return None if signer is None else str(signer)


_MODEL_FIELDS = (
    "version",
    "digest",
    "schema_fingerprint",
    "verdict",
    "waiver",
    "sample",
    "signed_verdict",
    "signed_waiver",
    "unsigned",
)


class ServingEntry(ModelRef, frozen=True, kw_only=True, omit_defaults=True):
    """One model in production, and the act that put it there.

    `by` is the id of the request, the same for all its tries. `undo` repeats `act` for release
    0.2.0, which does not know `act`. `act` is empty in the stored form of an entry of that release,
    and `decode` names it.
    """

    epoch: int
    by: str
    at: str
    requested_by: str = ""
    act: Act | str = ""
    strategy: Strategy | str = "broadcast"
    undo: bool = False

    @property
    def target(self) -> ServingTarget:
        return ServingTarget(self.epoch, self.version, self.digest)


class Reservation(ModelRef, frozen=True, kw_only=True, omit_defaults=True):
    """What a promoter is about to commit. `act` is as in an entry."""

    epoch: int
    by: str
    at: str
    strategy: Strategy | str
    requested_by: str = ""
    act: Act | str = ""

    @property
    def target(self) -> ServingTarget:
        return ServingTarget(self.epoch, self.version, self.digest)


class RecordedRequest(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """A request id with the epoch that its first try reserved."""

    id: str
    epoch: int


class ServingRecord(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """What serves, what is about to serve, and the way back.

    `current` is None before the first promotion, and `previous` is what it replaced. `stack` holds
    the entries that served before, newest first. `alias_epoch` is the last epoch whose alias was
    written and read back. `alias_note` says what is wrong with the alias. `unwritten` holds the
    rows of `promotions` that PostgreSQL does not have yet. Fields of a later release are kept
    (`Extensible`).
    """

    format: int = FORMAT
    current: ServingEntry | None = None
    previous: ServingEntry | None = None
    reserved: Reservation | None = None
    stack: tuple[ServingEntry, ...] = ()
    requests: tuple[RecordedRequest, ...] = ()
    alias_epoch: int = msgspec.field(default=0, name="mirrored")
    alias_note: str | None = msgspec.field(default=None, name="alias_moved")
    highest_reserved: int = 0
    unwritten: tuple[Attempt, ...] = ()

    @property
    def epoch(self) -> int:
        return self.current.epoch if self.current else 0

    @property
    def has_named_a_model(self) -> bool:
        """Whether a promotion has ever committed. A refused first one does not count."""
        return bool(self.current or self.previous or self.stack)

    @property
    def unsigned(self) -> str | None:
        """A note that no signature proves what serves, or None."""
        current = self.current
        return f"version {current.version} is {UNSIGNED}" if current and current.unsigned else None

    @property
    def alias_error(self) -> str | None:
        """How the registry's alias differs from this record, or None when they agree."""
        if self.alias_epoch < self.epoch:
            return f"the registry's alias production does not follow epoch {self.epoch} yet"
        return self.alias_note

    @property
    def highest_epoch(self) -> int:
        """The highest epoch in use. No epoch is used twice, not even that of a refused act."""
        return max(self.epoch, self.highest_reserved)

    def first_reservation(self, request: str) -> int | None:
        """Return the epoch that this request's first try reserved, or None if it is unknown."""
        return next((known.epoch for known in self.requests if known.id == request), None)

    def is_unreported(self, request: str) -> bool:
        """Whether the request has committed and its promoter has not reported an outcome.

        A commit of this release keeps an `unconfirmed` row. What release 0.2.0 has reported is
        unknown.
        """
        return any(
            row.request == request and row.is_provisional and row.outcome == "unconfirmed"
            for row in self.unwritten
        )


EMPTY = ServingRecord()


class NewerFormatError(FraudopsError):
    """A newer release has written the record, and this release must not change it."""

    exit_code = 65


def check_writable(record: ServingRecord) -> None:
    """Raise NewerFormatError for a record of a newer format."""
    if record.format > FORMAT:
        raise NewerFormatError(
            f"the serving record has format {record.format}, and this release writes {FORMAT}: "
            "use the newer release that wrote it"
        )


def reserve(record: ServingRecord, reservation: Reservation) -> ServingRecord:
    """Return the record with the reservation and with the epoch of the request's first try.

    The ids of requests whose entries are in the record stay, so that a late try of such a request
    knows that it has committed.
    """
    requests = record.requests
    if record.first_reservation(reservation.by) is None:
        committed = {entry.by for entry in (record.current, *record.stack) if entry}
        kept = [
            known
            for position, known in enumerate(requests, start=2)
            if position <= REQUEST_LIMIT or known.id in committed
        ]
        requests = (RecordedRequest(id=reservation.by, epoch=reservation.epoch), *kept)
    return msgspec.structs.replace(
        record, reserved=reservation, requests=requests, highest_reserved=reservation.epoch
    )


def release(record: ServingRecord) -> ServingRecord:
    """Return the record without its reservation."""
    return msgspec.structs.replace(record, reserved=None)


def alias_synced(record: ServingRecord, note: str | None) -> ServingRecord:
    """Return the record after its alias was written and read back, with what is wrong with it."""
    return msgspec.structs.replace(record, alias_epoch=record.epoch, alias_note=note)


def note_alias(record: ServingRecord, note: str | None) -> ServingRecord:
    """Return the record with the note about the alias, or without one."""
    return msgspec.structs.replace(record, alias_note=note)


def keep_outcome(record: ServingRecord, attempt: Attempt) -> ServingRecord:
    """Return the record with the row added. It holds one row for each request.

    At the limit, the oldest row of an act that has changed nothing gives way.
    """
    rows = [kept for kept in record.unwritten if kept.request != attempt.request] + [attempt]
    if len(rows) > UNWRITTEN_LIMIT:
        rows.remove(next((row for row in rows if row.outcome in UNCOMMITTED), rows[0]))
    return msgspec.structs.replace(record, unwritten=tuple(rows))


def drop_outcomes(record: ServingRecord, written: tuple[Attempt, ...]) -> ServingRecord:
    """Return the record without the rows that PostgreSQL has now."""
    left = tuple(kept for kept in record.unwritten if kept not in written)
    return msgspec.structs.replace(record, unwritten=left)


# In the cluster the record is one key of a ConfigMap.
CONFIG_MAP_KEY = "serving.json"


def config_map_name(release: str) -> str:
    return f"{release}-serving"


class RecordUnreadableError(FraudopsError):
    """The stored record is not a serving record. Nothing is guessed from it."""


def encode(record: ServingRecord) -> bytes:
    """Return the record as canonical JSON of this release's format. Raises NewerFormatError."""
    check_writable(record)
    # A field that has its default is not written, but the number of the format always is.
    numbered = {**record.unknown, "format": FORMAT}
    return encode_document(msgspec.structs.replace(record, format=FORMAT, unknown=numbered))


def of_config_map(found: Mapping[str, Any]) -> ServingRecord:
    """Return the ConfigMap's record; EMPTY before the first write. Raises RecordUnreadableError."""
    data = (found.get("data") or {}).get(CONFIG_MAP_KEY)
    return decode(data.encode()) if data else EMPTY


def decode(data: bytes) -> ServingRecord:
    """Return the record of any release. Raises RecordUnreadableError."""
    try:
        record = decode_document(data, ServingRecord)
    except msgspec.MsgspecError as error:
        raise RecordUnreadableError(
            f"the serving record cannot be read: {error}. "
            "Restore it from a backup; pods keep serving what they have"
        ) from error
    return msgspec.structs.replace(
        record,
        format=msgspec.json.decode(data, type=_RecordFormat).format,
        current=_named(record.current),
        previous=_named(record.previous),
        reserved=_with_reserved_act(record.reserved),
        stack=tuple(entry for each in record.stack if (entry := _named(each))),
        # The first write of this release names the acts, so the rows must be in it from then on.
        unwritten=(*record.unwritten, *_rows_of_old_format(record)),
    )


class _RecordFormat(msgspec.Struct):
    """The number of a stored record; a record of release 0.2.0 has none."""

    format: int = 1


def _named(entry: ServingEntry | None) -> ServingEntry | None:
    """Name the act of an entry that release 0.2.0 wrote, and mark it as unsigned.

    That release marks only an undo, and signs nothing.
    """
    if entry is None:
        return None
    if not entry.act:
        unsigned = entry.signed_verdict is None and entry.signed_waiver is None
        entry = msgspec.structs.replace(entry, act="promote", unsigned=unsigned)
    # That release copies the entry that it goes back to, together with its `act`.
    return msgspec.structs.replace(entry, act="undo") if entry.undo else entry


def _with_reserved_act(reserved: Reservation | None) -> Reservation | None:
    """Name the act of a reservation that release 0.2.0 wrote: it marks only a rollback."""
    if reserved is None or reserved.act:
        return reserved
    act: Act = "rollback" if reserved.unknown.get("rollback") else "promote"
    return msgspec.structs.replace(reserved, act=act)


def _rows_of_old_format(record: ServingRecord) -> tuple[Attempt, ...]:
    """Return a provisional row for each entry that release 0.2.0 committed.

    That release derived missing rows from the record. This one keeps them in it. During a
    downgrade 0.2.0 adds such entries to a record of this format.
    """
    # A refused row may be that of an earlier try, from before the downgrade.
    kept = {row.request for row in record.unwritten if row.outcome not in UNCOMMITTED}
    return tuple(
        Attempt(
            request=entry.by,
            requested_by=entry.requested_by,
            at=entry.at,
            strategy=entry.strategy,
            version=entry.version,
            digest=entry.digest,
            epoch=entry.epoch,
            outcome="done",
        )
        for entry in (*reversed(record.stack), record.current)
        if entry and not entry.act and not entry.undo and entry.by not in kept
    )
