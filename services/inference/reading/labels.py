"""Labels in the body of a request."""

import uuid
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec

from services.inference.reading.identifiers import Identifier
from services.inference.reading.rows import RowList

LABELS = RowList("labels")


class LabelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of one transaction, named by its prediction's id or by the client's id."""

    # The reason of a refusal if no single field is wrong.
    whole_fault: ClassVar[str] = (
        "must name the transaction by either prediction_id or transaction_id"
    )
    label: Annotated[int, msgspec.Meta(ge=0, le=1)]
    labelled_at: Annotated[datetime, msgspec.Meta(tz=True)]
    source: Identifier
    prediction_id: uuid.UUID | None = None
    transaction_id: Identifier | None = None

    def __post_init__(self) -> None:
        if (self.prediction_id is None) == (self.transaction_id is None):
            raise ValueError(self.whole_fault)
