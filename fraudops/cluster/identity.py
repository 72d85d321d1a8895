"""Who the caller is, as the Kubernetes API sees it, and the approval of a Job."""

from collections.abc import Mapping
from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.errors import FraudopsError, RefusedError, SettingsError
from fraudops.promotion.approval import APPROVED_BY, REQUESTED_BY, approver_in
from fraudops.promotion.ports import StaleRecordError
from fraudops.promotion.requester import SYSTEM

REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
Object = dict[str, Any]


async def caller(cluster: Cluster) -> str:
    """Return the user name of this caller. The API server takes it from the credentials."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await cluster.call("POST", REVIEW, review)
    name = answer.get("status", {}).get("userInfo", {}).get("username")
    if not name:
        raise FraudopsError("the Kubernetes API does not say who this caller is")
    return str(name)


class JobApprovals:
    """The approval of the Job with this name and UID."""

    def __init__(self, cluster: Cluster, job: str, uid: str) -> None:
        self._cluster, self.job, self._uid = cluster, job, uid

    async def annotations(self) -> Mapping[str, str]:
        found = await job_named(self._cluster, self.job)
        if found["metadata"]["uid"] != self._uid:
            # Another Job of the same name: its approval is for other arguments.
            raise RefusedError(f"Job {self.job} was replaced while its promotion waited")
        return annotations_of(found)


async def job_named(cluster: Cluster, name: str) -> Object:
    """Return the Job. Raises SettingsError if there is none."""
    try:
        return await cluster.call("GET", cluster.path("batch/v1", "jobs", name))
    except NotFoundError as error:
        raise SettingsError(
            f"namespace {cluster.namespace} has no Job {name}: check the name, or give --namespace"
        ) from error


def annotations_of(found: Object) -> Mapping[str, str]:
    return dict(found["metadata"].get("annotations") or {})


def command_of(job: Object) -> list[str]:
    """Return what the Job's last container runs, without the Python that runs it."""
    container = job["spec"]["template"]["spec"]["containers"][-1]
    return [*container.get("command", [])[2:], *container.get("args", [])]


def check_approvable(job: Object, user: str) -> None:
    """Raise RefusedError if the user cannot approve the Job."""
    name, annotations = job["metadata"]["name"], annotations_of(job)
    ended = [
        condition["type"]
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
    ]
    if approver := approver_in(annotations):
        raise RefusedError(f"Job {name} is already approved, by {approver}")
    if ended:
        raise RefusedError(f"Job {name} has ended ({ended[0]}): start the promotion again")
    # Its requester could let it run at any later time, and the approval would still count.
    if job["spec"].get("suspend") or job["spec"].get("parallelism") == 0:
        raise RefusedError(f"Job {name} is suspended: approve it when it runs")
    if annotations.get(REQUESTED_BY) == user:
        raise RefusedError(f"{user} has started Job {name}: another user must approve it")
    if user.startswith(SYSTEM):
        raise RefusedError(f"{user} is no person's name: approve with a user's own credentials")


async def approve(cluster: Cluster, job: Object, user: str) -> None:
    """Write the user's approval on the Job.

    Raises RefusedError if the user cannot approve it or another Job has its name now, and as
    `call` does.
    """
    check_approvable(job, user)
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    path = f"/metadata/annotations/{_escaped(APPROVED_BY)}"
    add: Object = {"op": "add", "path": path, "value": user}
    if not annotations_of(job):
        add |= {"path": "/metadata/annotations", "value": {APPROVED_BY: user}}
    # With the UID, a new Job of the same name does not get the approval.
    patch = [{"op": "test", "path": "/metadata/uid", "value": uid}, add]
    try:
        await cluster.call("PATCH", cluster.path("batch/v1", "jobs", name), patch, patch="json")
    except StaleRecordError as error:
        raise RefusedError(f"Job {name} has changed: look at it and approve again") from error


def _escaped(key: str) -> str:
    """Return the key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
