"""Labels from clients, into the spool like predictions."""

from fraudops.audit.records import encode, new_label
from fraudops.errors import RefusedError
from services.inference.audit.writers import Audit
from services.inference.reading.labels import LABELS, LabelEntry, LabelReader
from services.inference.reading.rows import read_rows

_reader = LabelReader()


async def accept(body: bytes, audit: Audit) -> int:
    """How many labels the spool took: all of the body, or none.

    Raises InvalidBodyError, SpoolFullError, StoreDownError; RefusedError when nothing is
    audited, since a label that was taken and forgotten would be missed much later.
    """
    if audit.off:
        raise RefusedError(
            "nothing is audited here (FRAUDOPS_AUDIT__DURABILITY is off), "
            "and labels are not kept either"
        )
    records = [
        _record(entry) async for entries in read_rows(_reader, LABELS, body) for entry in entries
    ]
    await audit.append_many(records)
    return len(records)


def _record(entry: LabelEntry) -> bytes:
    named = str(entry.prediction_id) if entry.prediction_id else None
    return encode(
        new_label(
            entry.label,
            entry.labelled_at,
            entry.source,
            prediction_id=named,
            transaction_id=entry.transaction_id,
        )
    )
