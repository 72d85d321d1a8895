"""Counts of refused transactions, by field and code of the fault."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fraudops.audit.records import RefusalCount, encode
from fraudops.errors import StoreDownError
from fraudops.ids import uuid7
from services.inference.audit.writers import Audit
from services.inference.metrics import Metrics
from services.inference.reading.faults import FaultCode, FieldFault
from services.inference.reading.rows import TRANSACTIONS

logger = logging.getLogger(__name__)
FLUSH_SECONDS = 60.0
BODY, OTHER = "(body)", "(other)"
# A client can cause new counts and time series. These are their limits for one flush, and for one
# process.
MOST_COUNTS, MOST_SERIES = 64, 500
# The largest integer of the table's column.
MOST_ROWS = (1 << 31) - 1
_OF_THE_BODY: frozenset[FaultCode] = frozenset(
    {"empty", "foreign_form", "not_json", "not_utf8", "too_deep", "too_large", "too_many_rows"}
)


class _Place(NamedTuple):
    """The key of one count. `reason` is the code of a fault."""

    endpoint: str
    version: str | None
    field: str
    reason: str


class RefusalCounter:
    """The refused transactions of one worker; only the event loop uses it.

    The metric counts them, and each minute the audit gets a record for each field and reason.
    A worker that is killed loses the counts of its last minute.
    """

    def __init__(self, audit: Audit, metrics: Metrics, pod: str, model_name: str) -> None:
        self._audit, self._metrics = audit, metrics
        self._pod, self._model_name = pod, model_name
        self._counts: Counter[_Place] = Counter()
        self._series: set[tuple[str, str, str]] = set()
        # Encoded records that the audit did not take, or took without saying so.
        self._unwritten: list[bytes] = []

    def note(self, endpoint: str, version: str | None, faults: Sequence[FieldFault]) -> None:
        """Count each row with a fault once, by its first fault.

        `endpoint` is a metric label, and `version` that of the model that served, or None. At most
        REPORTED_FAULTS rows of a request are explained, so only these are counted.
        """
        first: dict[int | None, FieldFault] = {}
        for fault in faults:
            first.setdefault(fault.index, fault)
        for (field, reason), rows in Counter(map(_labels, first.values())).items():
            self._count(_Place(endpoint, version, field, reason), rows)
            self._observe(endpoint, field, reason, rows)

    def _count(self, place: _Place, rows: int) -> None:
        if self._audit.off:
            return
        if place not in self._counts and len(self._counts) >= MOST_COUNTS:
            place = place._replace(field=OTHER, reason="other")
        self._counts[place] += rows

    def _observe(self, endpoint: str, field: str, reason: str, rows: int) -> None:
        if len(self._series) >= MOST_SERIES and (endpoint, field, reason) not in self._series:
            field, reason = OTHER, "other"
        self._series.add((endpoint, field, reason))
        self._metrics.transaction_refused(endpoint, field, reason, rows)

    async def run(self) -> None:
        """Flush the counts again and again until this task is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the counts since the last flush to the audit.

        If the audit refuses, the next flush writes the same records again, with the same ids: with
        the durability `commit` they may be in the table already. Later counts wait.
        """
        if not self._unwritten:
            self._unwritten = [
                encode(self._record(place, rows)) for place, rows in self._counts.items()
            ]
            self._counts.clear()
        if not self._unwritten:
            return
        try:
            await self._audit.append_many(self._unwritten)
        except StoreDownError as error:
            logger.warning(
                "the counts of refused transactions are not written yet",
                extra={"reason": str(error)},
            )
        else:
            self._unwritten = []

    def _record(self, place: _Place, rows: int) -> RefusalCount:
        return RefusalCount(
            id=uuid7(),
            pod=self._pod,
            endpoint=place.endpoint,
            field=place.field,
            reason=place.reason,
            rows=min(rows, MOST_ROWS),
            model_name=self._model_name,
            model_version=place.version,
        )


def _labels(fault: FieldFault) -> tuple[str, str]:
    """Return field and reason for a metric: nothing that a client can invent.

    Only a code says that the field is one of the schema.
    """
    if fault.code in (None, "unknown_field"):
        return OTHER, fault.code or "other"
    if fault.code in _OF_THE_BODY or fault.field == TRANSACTIONS.key:
        return BODY, str(fault.code)
    return fault.field or BODY, str(fault.code)
