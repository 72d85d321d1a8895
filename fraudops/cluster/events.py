"""Promotions as Kubernetes Events on the inference Deployment, in addition to their rows."""

import uuid
from datetime import UTC, datetime

from fraudops.cluster.api import Cluster
from fraudops.errors import FraudopsError
from fraudops.progress import Say
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.ports import Attempt

GOOD = ("started", "done")


class EventJournal(DatabaseJournal):
    """The port Journal in a cluster. It writes the row first, and then the Event of an ending.

    An Event is for people, so one that cannot be written is reported and does not fail the
    promotion. The reconciler derives missing rows from the serving record, but no Events.
    """

    def __init__(self, cluster: Cluster, release: str, url: str, model: str, say: Say) -> None:
        super().__init__(url, model, say)
        self.cluster, self.deployment = cluster, f"{release}-inference"

    async def write(self, attempt: Attempt) -> None:
        await super().write(attempt)
        if attempt.outcome != "started":
            try:
                await self.cluster.call(
                    "POST", self.cluster.path("v1", "events"), self._event(attempt)
                )
            except FraudopsError as error:
                self.say(f"no Event was written: {error}")

    def _event(self, attempt: Attempt) -> dict[str, object]:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        what = f"version {attempt.version or '(none)'} by {attempt.strategy}: {attempt.outcome}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{self.deployment}.{uuid.uuid4().hex[:16]}",
                "namespace": self.cluster.namespace,
            },
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": self.deployment,
                "namespace": self.cluster.namespace,
            },
            "type": "Normal" if attempt.outcome in GOOD else "Warning",
            "reason": f"Promotion{attempt.outcome.capitalize()}",
            "message": f"{what}{f' ({attempt.reason})' if attempt.reason else ''}"[:1000],
            "source": {"component": "fraudops-promote"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
