"""Counts of the transactions that were refused, by field and reason."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from services.inference.audit.writers import Audit
from services.inference.metrics import Metrics
from services.inference.reading.faults import FieldFault

FLUSH_SECONDS = 60.0
BODY, OTHER = "(body)", "(other)"


class RefusalCounter:
    """The refused transactions of one worker; only the event loop uses it.

    The metric counts them. They are not in the audit yet.
    """

    def __init__(self, audit: Audit, metrics: Metrics, pod: str, model_name: str) -> None:
        self._audit, self._metrics = audit, metrics
        self._pod, self._model_name = pod, model_name

    def note(self, endpoint: str, version: str | None, faults: Sequence[FieldFault]) -> None:
        """Count each row with a fault once, by its first fault.

        `endpoint` is a metric label, and `version` that of the model that served, or None.
        """
        first: dict[int | None, FieldFault] = {}
        for fault in faults:
            first.setdefault(fault.index, fault)
        for (field, reason), rows in Counter(map(_labels, first.values())).items():
            self._metrics.transaction_refused(endpoint, field, reason, rows)

    async def run(self) -> None:
        """Flush the counts again and again until this task is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the counts since the last flush to the audit."""


def _labels(fault: FieldFault) -> tuple[str, str]:
    """Return field and reason for a metric: nothing that a client can invent.

    Only a code says that the field is one of the schema.
    """
    if fault.code in (None, "unknown_field"):
        return OTHER, fault.code or "other"
    return fault.field or BODY, str(fault.code)
