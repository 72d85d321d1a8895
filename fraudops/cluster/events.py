"""Promotions as Kubernetes Events on the inference Deployment, beside their rows."""

import uuid
from datetime import UTC, datetime

from fraudops.cluster.api import Cluster, ForbiddenError
from fraudops.errors import StoreDownError
from fraudops.progress import Say
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.ports import Attempt, StaleRecordError, UnknownWriteError

GOOD = ("started", "done")


class EventJournal(DatabaseJournal):
    """Journal in a cluster; the reconciler derives missing rows from the serving record."""

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
            except (StoreDownError, UnknownWriteError, StaleRecordError, ForbiddenError) as error:
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
