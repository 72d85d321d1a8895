"""/feedback: labels from clients, into the spool like predictions."""

from typing import Annotated

import msgspec

from fraudops.audit.records import encode, new_label
from fraudops.errors import RefusedError
from services.inference.http.context import ServiceContext
from services.inference.http.handlers.charges import charged_rows
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.reading.labels import LABELS, LabelEntry, LabelReader
from services.inference.reading.rows import BATCH_ROWS, read_rows

_reader = LabelReader()


class Labels(msgspec.Struct):
    """Labels of which all are accepted, or none."""

    labels: Annotated[list[LabelEntry], msgspec.Meta(min_length=1, max_length=BATCH_ROWS)]


class Accepted(msgspec.Struct):
    """How many labels were taken."""

    accepted: int


async def feedback(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Append all labels to the spool, or none.

    Raises InvalidBodyError, SpoolFullError, StoreDownError. Raises RefusedError if nothing is
    audited, because a label that was accepted and forgotten would be missed much later.
    """
    if context.audit.off:
        raise RefusedError(
            "nothing is audited here (FRAUDOPS_AUDIT__DURABILITY is off), "
            "and labels are not kept either"
        )
    with charged_rows(context, request) as count:
        records = [
            _record(entry, request.client)
            async for entries in read_rows(_reader, LABELS, request.body, count)
            for entry in entries
        ]
    await context.audit.append_many(records)
    return HttpResponse(msgspec.json.encode(Accepted(len(records))), request.route.status)


def _record(entry: LabelEntry, client: str | None) -> bytes:
    named = str(entry.prediction_id) if entry.prediction_id else None
    return encode(
        new_label(
            entry.label,
            entry.labelled_at,
            entry.source,
            prediction_id=named,
            transaction_id=entry.transaction_id,
            client=client,
        )
    )
