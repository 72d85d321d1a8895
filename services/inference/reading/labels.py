"""Labels in the body of a request."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from services.inference.reading.faults import FaultError, FieldFault
from services.inference.reading.identifiers import Identifier
from services.inference.reading.rows import RowList
from services.inference.reading.transactions import Reader

LABELS = RowList("labels")
SKEW = timedelta(seconds=300)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_NAMELESS = FieldFault(
    reason="must name the transaction by either prediction_id or transaction_id", code="other"
)
_BAD_TIME = FieldFault(
    field="labelled_at", reason="must be within the years 1970 to 9999 of UTC", code="bad_time"
)
_FUTURE = FieldFault(
    field="labelled_at",
    reason=f"must be at most {SKEW.seconds} s after the service's clock",
    code="future",
)


class LabelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of one transaction, named by its prediction's id or by the client's id."""

    label: Annotated[int, msgspec.Meta(ge=0, le=1)]
    labelled_at: Annotated[datetime, msgspec.Meta(tz=True)]
    source: Identifier
    prediction_id: uuid.UUID | None = None
    transaction_id: Identifier | None = None

    def __post_init__(self) -> None:
        try:
            moment = self.labelled_at.astimezone(UTC)
        except OverflowError:
            raise FaultError(_BAD_TIME) from None
        if moment < _EARLIEST:
            raise FaultError(_BAD_TIME)
        if (self.prediction_id is None) == (self.transaction_id is None):
            raise FaultError(_NAMELESS)
        # Later code converts it to UTC again, which must not be able to overflow.
        msgspec.structs.force_setattr(self, "labelled_at", moment)


def _now() -> datetime:
    return datetime.now(UTC)


class LabelReader(Reader[LabelEntry]):
    """Reads labels, and refuses those that come from the future.

    The latest label of a transaction counts, and a `labelled_at` of next year would win for a year.
    """

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        super().__init__(LabelEntry)
        self._clock = clock

    def decode(self, row: bytes) -> LabelEntry:
        label = super().decode(row)
        if label.labelled_at > self._clock() + SKEW:
            fault = FaultError(_FUTURE)
            raise msgspec.ValidationError(str(fault)) from fault
        return label

    def read_list(self, piece: bytes) -> list[LabelEntry]:
        labels, latest = super().read_list(piece), self._clock() + SKEW
        return labels if all(label.labelled_at <= latest for label in labels) else []
