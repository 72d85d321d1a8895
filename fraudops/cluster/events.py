"""Promotions as Kubernetes Events on the inference Deployment."""

import uuid
from datetime import UTC, datetime
from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.errors import FraudopsError
from fraudops.progress import Say
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.ports import StaleRecordError

GOOD = ("done", "unchanged")
# Kubernetes refuses a longer message of an Event.
MAX_MESSAGE_CHARACTERS = 1000


class EventJournal:
    """The port Journal in a cluster: the table, and one Event for each outcome."""

    def __init__(self, rows: DatabaseJournal, cluster: Cluster, release: str, say: Say) -> None:
        self._rows, self._cluster, self._say = rows, cluster, say
        self._deployment = f"{release}-inference"

    async def write(self, attempt: Attempt) -> None:
        """Write the row, then the Event of an outcome. Raises StoreDownError if the row is late.

        Events expire, so an Event that cannot be written is reported and not repeated.
        """
        await self._rows.write(attempt)
        # The reconciler repeats the rows of a record of 0.2.0 in every run. They are old, and a
        # new Event each time would report them as news.
        if attempt.outcome == "started" or _is_of_old_record(attempt):
            return
        try:
            await self._cluster.call(
                "POST", self._cluster.path("v1", "events"), self._event(attempt)
            )
        except StaleRecordError:
            # The Event exists: an earlier run wrote this row and could not note that.
            return
        except FraudopsError as error:
            self._say(f"no Event was written: {error}")

    def _event(self, attempt: Attempt) -> dict[str, Any]:
        now = datetime.now(UTC)
        ended = datetime.fromisoformat(attempt.finished_at) if attempt.finished_at else now
        at = ended.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        what = f"{attempt.act} version {attempt.version or '(none)'} by {attempt.strategy}"
        reason = f" ({attempt.reason})" if attempt.reason else ""
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{self._deployment}.{_suffix(attempt)}",
                "namespace": self._cluster.namespace,
            },
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": self._deployment,
                "namespace": self._cluster.namespace,
            },
            "type": "Normal" if attempt.outcome in GOOD else "Warning",
            "reason": f"Promotion{attempt.outcome.capitalize()}",
            "message": f"{what}: {attempt.outcome}{reason}"[:MAX_MESSAGE_CHARACTERS],
            "source": {"component": "fraudops-promote"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }


def _is_of_old_record(attempt: Attempt) -> bool:
    return attempt.is_provisional and attempt.outcome == "done"


def _suffix(attempt: Attempt) -> str:
    """Return the same text for the same outcome, so that a repeated write adds no Event."""
    identity = f"{attempt.request} {attempt.outcome} {attempt.finished_at}"
    return uuid.uuid5(uuid.NAMESPACE_OID, identity).hex[:16]
