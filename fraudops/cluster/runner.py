"""Runner of Jobs that are made from the chart's CronJobs.

It follows a Job to its end. It copies the log of every try as it is written, and returns the exit
code of the last try.
"""

import asyncio
import copy
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.errors import FraudopsError, RefusedError, SettingsError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.approval import REQUESTED_BY

Object = dict[str, Any]
Value = TypeVar("Value")
LABELS = "app.kubernetes.io/name=fraudops,app.kubernetes.io/component=train"
POLL_SECONDS = 0.5
# The API server may restart under a Job that runs for hours.
PATIENCE_SECONDS = 120.0
# The chart's init containers that take the command line's arguments. The download of the data takes
# none, and neither do containers that a site adds.
STEPS = frozenset({"wait", "train", "validate", "waive"})
# How long the runner still waits for a Job after the Job's own deadline, in seconds.
MARGIN_SECONDS = 120.0
DEFAULT_DEADLINE_SECONDS = 86_400.0
# After these exit codes there is no further try: the podFailurePolicy of the chart's Jobs.
FINAL = frozenset({SettingsError.exit_code, RefusedError.exit_code})


@dataclass(frozen=True)
class JobSpec:
    """The Job to run: a CronJob's template, and what differs from it.

    `template` names the CronJob. With `module`, that program runs with `arguments` alone. Without
    it, `arguments` follow those of the template. `shards` is the number of pods of an Indexed Job,
    if it is not the template's. `requested_by` is the caller's name, which Job and pods carry as an
    annotation.
    """

    template: str
    arguments: Sequence[str] = ()
    module: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    shards: int | None = None
    requested_by: str | None = None


def job_of(cronjob: Object, name: str, wanted: JobSpec) -> Object:
    """Return the Job that `kubectl create job --from` would make, changed as `wanted` says.

    The CronJob owns the Job, so Kubernetes deletes both together.
    """
    template = copy.deepcopy(cronjob["spec"]["jobTemplate"])
    for container in _steps(template["spec"]["template"]["spec"], wanted.module):
        if wanted.module:
            container |= {"command": ["python", "-m", wanted.module]}
            container["args"] = list(wanted.arguments)
        else:
            container["args"] = [*container.get("args", []), *wanted.arguments]
        kept = [
            variable
            for variable in container.get("env", [])
            if variable["name"] not in wanted.environment
        ]
        container["env"] = [
            *kept,
            *({"name": name, "value": value} for name, value in wanted.environment.items()),
        ]
    if wanted.shards:
        template["spec"] |= {"completions": wanted.shards, "parallelism": wanted.shards}
    if wanted.requested_by:
        _annotate(template, REQUESTED_BY, wanted.requested_by)
        # The program in the pod reads the pod's own annotation.
        _annotate(template["spec"]["template"], REQUESTED_BY, wanted.requested_by)
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": cronjob["metadata"]["name"],
        "uid": cronjob["metadata"]["uid"],
    }
    found = template.get("metadata") or {}
    annotations = (found.get("annotations") or {}) | {"cronjob.kubernetes.io/instantiate": "manual"}
    metadata = {
        "name": name,
        "labels": found.get("labels") or {},
        "annotations": annotations,
        "ownerReferences": [owner],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def _steps(pod: Object, module: str | None) -> list[Object]:
    """Return the containers that the Job's arguments are for: its steps, in their order.

    Another program has no steps before it. The steps of the template are removed then. Other init
    containers come from the chart's values, such as a proxy, and stay as they are.
    """
    steps = [found for found in pod.get("initContainers", []) if _is_step(found)]
    if module and steps:
        pod["initContainers"] = [found for found in pod["initContainers"] if found not in steps]
        steps = []
    return [*steps, pod["containers"][0]]


def _is_step(container: Object) -> bool:
    # The name alone does not do: a site may call its own container `wait`.
    command = [str(word) for word in container.get("command") or []]
    ours = command[:2] == ["python", "-m"] and "".join(command[2:3]).startswith("jobs.")
    return ours and container["name"] in STEPS


def _followed(pod: Object) -> list[str]:
    """Return the containers whose ends the Job waits for, in their order.

    A sidecar runs as long as the pod, so following it would never come to the next container.
    """
    initial = [
        str(found["name"])
        for found in pod.get("initContainers", [])
        if found.get("restartPolicy") != "Always"
    ]
    return [*initial, str(pod["containers"][0]["name"])]


def _annotate(template: Object, name: str, value: str) -> None:
    metadata = template.setdefault("metadata", {})
    metadata["annotations"] = (metadata.get("annotations") or {}) | {name: value}


async def find_release(cluster: Cluster, release: str | None) -> str:
    """Return the name of that release, or of the only one in the namespace.

    Raises SettingsError, which lists the releases of the namespace.
    """
    found = await cluster.call(
        "GET", cluster.path("batch/v1", "cronjobs"), query={"labelSelector": LABELS}
    )
    names = sorted(item["metadata"]["name"].removesuffix("-train") for item in found["items"])
    if release in names or (release is None and len(names) == 1):
        return release or names[0]
    there = (
        f"there is {', '.join(names)}: give --release"
        if names
        else "there is none: give --namespace, or install one with `helm install`"
    )
    raise SettingsError(
        f"{f'no release {release}' if release else 'which release?'} "
        f"in namespace {cluster.namespace}; {there}"
    )


class JobRunner:
    """Creates Jobs and follows them.

    `emit` gets every line of a container's log, with the pod's name. `say` gets the progress.
    """

    def __init__(self, cluster: Cluster, say: Say, emit: Callable[[str, bytes], None]) -> None:
        self.cluster, self.say, self.emit = cluster, say, emit
        self._last_said = ""

    async def template(self, release: str, name: str) -> Object:
        """Return the CronJob. Raises SettingsError when the release has no such CronJob."""
        try:
            return await self.cluster.call(
                "GET", self.cluster.path("batch/v1", "cronjobs", f"{release}-{name}")
            )
        except NotFoundError as error:
            raise SettingsError(
                f"release {release} has no CronJob {release}-{name}: "
                "is it switched off in its values?"
            ) from error

    async def create(self, job: Object) -> str:
        """Create the Job once, also if the answer is lost, and return its name."""
        try:
            await self.cluster.call("POST", self.cluster.path("batch/v1", "jobs"), job)
        except FraudopsError:
            if not await self._exists(job["metadata"]["name"]):
                raise
        return str(job["metadata"]["name"])

    async def _exists(self, name: str) -> bool:
        try:
            await self.cluster.call("GET", self.cluster.path("batch/v1", "jobs", name))
        except NotFoundError:
            return False
        return True

    async def follow(self, name: str) -> int:
        """Copy the Job's log, and return the exit code of its last try.

        Raises StoreDownError when the Job has failed without an exit code, or has not ended some
        time after its own deadline.
        """
        job = await self._patiently(lambda: self._job(name))
        seconds = (
            float(job["spec"].get("activeDeadlineSeconds") or DEFAULT_DEADLINE_SECONDS)
            + MARGIN_SECONDS
        )
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(name)
        except TimeoutError as error:
            raise StoreDownError(
                f"Job {name} has not ended after {seconds:g} s: look at it with kubectl"
            ) from error

    async def running_pod(self, job: str) -> str:
        """Return the Job's first pod once its container runs.

        Raises StoreDownError if the Job ends before.
        """
        pod = await self._next_pod(job, set())
        while pod is not None:
            found = await self._patiently(lambda: self._pod(pod))
            status = _container(found, found["spec"]["containers"][0]["name"])
            if "running" in status.state:
                return pod
            if "terminated" in status.state or status.pod_ended:
                break
            self._say_once(f"waiting for pod {pod}: {status.waits_for}")
            await asyncio.sleep(POLL_SECONDS)
        raise StoreDownError(f"Job {job} ended before it began to read")

    async def _follow(self, name: str) -> int:
        followed: set[str] = set()
        code: int | None = None
        indexed = (await self._patiently(lambda: self._job(name)))["spec"].get(
            "completionMode"
        ) == "Indexed"
        while (pod := await self._next_pod(name, followed)) is not None:
            if followed:
                self.say(
                    f"the next pod: {pod}" if indexed else f"Kubernetes tries again: pod {pod}"
                )
            followed.add(pod)
            ended = await self._follow_pod(pod)
            # The refusal of one shard ends the others by a signal, so their codes do not count.
            code = code if indexed and code in FINAL else ended
        fault = await self._fault(name)
        # The exit code of a pod that was killed at the Job's deadline says nothing.
        if fault and (code in (None, 0) or fault.startswith("DeadlineExceeded")):
            raise StoreDownError(f"Job {name} failed: {fault}")
        # After a PodFailurePolicy the exit code has the reason already.
        if fault and not fault.startswith("PodFailurePolicy"):
            self.say(f"Job {name} failed: {fault}")
        return code or 0

    async def _job(self, name: str) -> Object:
        return await self.cluster.call("GET", self.cluster.path("batch/v1", "jobs", name))

    async def _next_pod(self, job: str, followed: set[str]) -> str | None:
        """Return the pod of the next try, or None when the Job has ended and no pod is left."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        while True:
            ended = any(
                _is_true(condition, "Complete", "Failed")
                for condition in _conditions(await self._patiently(lambda: self._job(job)))
            )
            found = await self._patiently(
                lambda: self.cluster.call("GET", self.cluster.path("v1", "pods"), query=query)
            )
            pods = sorted(found["items"], key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
            new = [
                str(pod["metadata"]["name"])
                for pod in pods
                if pod["metadata"]["name"] not in followed
            ]
            if new or ended:
                return new[0] if new else None
            await asyncio.sleep(POLL_SECONDS)

    async def _fault(self, name: str) -> str | None:
        """Return why the Job failed, or None."""
        for condition in _conditions(await self._patiently(lambda: self._job(name))):
            if _is_true(condition, "Failed"):
                return f"{condition.get('reason')}: {condition.get('message')}"
        return None

    async def _follow_pod(self, name: str) -> int | None:
        """Copy the log of each container in turn, and return the exit code of the last one.

        Return None when the pod was removed before it could be read.
        """
        try:
            pod = await self._patiently(lambda: self._pod(name))
            code: int | None = None
            for container in _followed(pod["spec"]):
                code = await self._follow_container(name, container)
                if code != 0:
                    return code
        except NotFoundError:
            self.say(f"pod {name} is gone: it was moved or deleted")
            return None
        return code

    async def _follow_container(self, pod: str, container: str) -> int | None:
        since: bytes | None = None
        while True:
            status = _container(await self._patiently(lambda: self._pod(pod)), container)
            state = status.state
            if "running" in state or "terminated" in state:
                since = await self._read_log(pod, container, since)
            elif status.pod_ended:
                return None
            else:
                self._say_once(f"waiting for pod {pod}: {status.waits_for}")
            if "terminated" in state:
                ended = state["terminated"]
                if ended.get("reason") not in ("Completed", "Error", None):
                    self.say(f"container {container} ended by {ended['reason']}")
                return int(ended["exitCode"])
            await asyncio.sleep(POLL_SECONDS)

    async def _read_log(self, pod: str, container: str, since: bytes | None) -> bytes | None:
        """Emit the lines after the time `since`, until the log pauses or ends.

        Return the time of the last line, as the API wrote it.
        """
        last = since
        query = {"container": container, "follow": "true", "timestamps": "true"} | (
            {"sinceTime": since.decode()} if since else {}
        )
        try:
            async with aclosing(
                self.cluster.lines(self.cluster.path("v1", "pods", f"{pod}/log"), query)
            ) as lines:
                async for line in lines:
                    moment, _, text = line.partition(b" ")
                    # The API repeats all lines of the second in which `since` lies.
                    if since is None or moment > since:
                        last = moment
                        self.emit(pod, text)
        except StoreDownError as error:
            self._say_once(str(error))
        return last

    async def _pod(self, name: str) -> Object:
        return await self.cluster.call("GET", self.cluster.path("v1", "pods", name))

    async def _patiently(self, ask: Callable[[], Awaitable[Value]]) -> Value:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await ask()
            except StoreDownError as error:
                if time.monotonic() > end:
                    raise
                self._say_once(f"trying again: {error}")
            await asyncio.sleep(POLL_SECONDS * 4)

    def _say_once(self, text: str) -> None:
        if text != self._last_said:
            self._last_said = text
            self.say(text)


@dataclass(frozen=True)
class ContainerStatus:
    """The state of a container as Kubernetes gives it, and in words why it does not run yet."""

    state: Object
    waits_for: str
    pod_ended: bool


def _container(pod: Object, name: str) -> ContainerStatus:
    status = pod.get("status") or {}
    every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    state: Object = next((found.get("state") or {} for found in every if found["name"] == name), {})
    waiting = state.get("waiting") or {}
    unscheduled = [
        condition.get("message")
        for condition in _conditions(pod)
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    reasons = [waiting.get("reason"), waiting.get("message"), *unscheduled]
    waits_for = ": ".join(str(reason) for reason in reasons if reason) or "not started yet"
    return ContainerStatus(state, waits_for, status.get("phase") in ("Succeeded", "Failed"))


def _conditions(found: Object) -> list[Object]:
    return list((found.get("status") or {}).get("conditions") or [])


def _is_true(condition: Object, *types: str) -> bool:
    return condition["type"] in types and condition["status"] == "True"


def new_name(release: str, template: str) -> str:
    return f"{release}-{template}-{uuid.uuid4().hex[:6]}"
