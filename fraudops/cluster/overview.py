"""Overview of a release for a user with a kubeconfig.

It holds the serving record, and what each pod reports that it serves.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from fraudops.cluster.api import Cluster
from fraudops.cluster.pods import CONTAINER, is_ready, living_pods
from fraudops.cluster.records import ConfigMapRecords
from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.serving_record import ServingRecord

PORT = 8000
ASK = f"""
import sys, urllib.error, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
try:
    answer = direct.open("http://127.0.0.1:{PORT}/ready", timeout=5)
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.buffer.write(answer.read())
"""


@dataclass(frozen=True)
class PodReport:
    """What Kubernetes and the pod itself say about one pod.

    `ready` and `terminating` come from Kubernetes, and the rest from the pod. `epoch` is None if
    the pod did not report; `reason` then says why.
    """

    name: str
    ready: bool
    terminating: bool
    epoch: int | None
    version: str | None
    workers: tuple[dict[str, Any], ...]
    reason: str | None


@dataclass(frozen=True)
class Overview:
    """The serving record with the pods that should follow it."""

    release: str
    namespace: str
    record: ServingRecord
    pods: tuple[PodReport, ...]

    @property
    def behind(self) -> tuple[str, ...]:
        """The names of the pods in which a worker does not serve the record's version.

        A pod that does not report counts. One that terminates does not.
        """
        if self.record.current is None:
            return ()
        return tuple(
            pod.name for pod in self.pods if pod.epoch != self.record.epoch and not pod.terminating
        )

    @property
    def well(self) -> bool:
        """Whether there are pods, and all that do not terminate are ready and serve the record.

        Before the first promotion no pod needs to be ready.
        """
        staying = [pod for pod in self.pods if not pod.terminating]
        return (
            bool(staying)
            and not self.behind
            and (self.record.current is None or all(pod.ready for pod in staying))
        )


async def look(cluster: Cluster, release: str) -> Overview:
    """Read the record and ask every pod. Raises StoreDownError, ForbiddenError."""
    record, _ = await ConfigMapRecords(cluster, release).read()
    living, _ = await living_pods(cluster, release)
    reports = await asyncio.gather(*(_report(cluster, pod) for pod in living))
    return Overview(
        release, cluster.namespace, record, tuple(sorted(reports, key=lambda report: report.name))
    )


async def _report(cluster: Cluster, pod: dict[str, Any]) -> PodReport:
    """Read a pod's /ready through the API server.

    If a network policy blocks that, run the request inside the pod. The report of a pod on a node
    that does not answer has no epoch.
    """
    name = str(pod["metadata"]["name"])
    try:
        _, data = await cluster.fetch(cluster.path("v1", "pods", f"{name}:{PORT}/proxy/ready"))
    except StoreDownError as error:
        data = msgspec.json.encode({"message": str(error)})
    report = report_of(name, is_ready(pod), "deletionTimestamp" in pod["metadata"], data)
    if report.epoch is None:
        try:
            data = await cluster.execute(name, CONTAINER, ["python", "-c", ASK])
        except FraudopsError:
            return report
        report = report_of(name, report.ready, report.terminating, data)
    return report


def report_of(name: str, ready: bool, terminating: bool, data: bytes) -> PodReport:
    """Return the report from the answer of the pod's /ready.

    `data` is the API server's own error if the pod did not answer.
    """
    try:
        said = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        said = {}
    if "workers" not in said:
        why = (
            "its /ready cannot be reached through the API server "
            f"({said.get('message') or 'no reason given'})"
        )
        return PodReport(name, ready, terminating, None, None, (), why)
    workers = tuple(said["workers"] or ())
    epochs = {worker.get("epoch") for worker in workers}
    versions = sorted({str(worker["version"]) for worker in workers if worker.get("version")})
    reason = None if said.get("status") == "ready" else str(said.get("detail") or "not ready")
    epoch = min((each or 0 for each in epochs), default=0)
    return PodReport(
        name, ready, terminating, epoch, " and ".join(versions) or None, workers, reason
    )
