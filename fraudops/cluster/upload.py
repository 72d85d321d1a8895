"""Upload of a file to the release's data volume.

A short-lived pod mounts the volume and reads the file from its standard input.
"""

import asyncio
import contextlib
import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.cluster.runner import JobRunner, JobSpec, Object, job_of
from fraudops.errors import SettingsError, StoreDownError

CHUNK_BYTES = 1 << 18
START_SECONDS = 300.0
DEADLINE_SECONDS = 3600
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
RECEIVER = "jobs.install.receive_data"


def data_mount(cronjob: Object) -> str:
    """Return the path at which the training Job mounts the data volume.

    Raises SettingsError when this release has none.
    """
    spec = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    claims = {
        volume["name"] for volume in spec.get("volumes", []) if "persistentVolumeClaim" in volume
    }
    mounts = [
        mount
        for mount in spec["containers"][0].get("volumeMounts", [])
        if mount["name"] in claims and mount["name"] == "data"
    ]
    if not mounts:
        raise SettingsError(
            "this release has no data volume, because its data.source is not volume: "
            "set data.source to volume (helm upgrade --set data.source=volume)"
        )
    return str(mounts[0]["mountPath"])


def data_name(cronjob: Object) -> str:
    """Return the name of the file that this release trains on."""
    variables = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0].get(
        "env", []
    )
    return Path(
        next(
            (
                str(variable["value"])
                for variable in variables
                if variable["name"] == "FRAUDOPS_DATA"
            ),
            "data.csv",
        )
    ).name


def receiver_of(cronjob: Object, name: str, wanted: JobSpec) -> Object:
    """Return a Job like the one for training, which may write to the volume.

    Its standard input stays open for one sender.
    """
    job = job_of(cronjob, name, wanted)
    job["spec"] |= {
        "backoffLimit": 0,
        "activeDeadlineSeconds": DEADLINE_SECONDS,
        "ttlSecondsAfterFinished": 600,
    }
    spec = job["spec"]["template"]["spec"]
    spec.pop("initContainers", None)
    container: dict[str, Any] = spec["containers"][0]
    mounts = [
        mount | {"readOnly": False} if mount["name"] == "data" else mount
        for mount in copy.deepcopy(container["volumeMounts"])
    ]
    container |= {"stdin": True, "stdinOnce": True, "resources": RESOURCES, "volumeMounts": mounts}
    return job


async def send(
    cluster: Cluster, runner: JobRunner, job: Object, file: Path, progress: Callable[[int], None]
) -> tuple[int, str]:
    """Send the file. Return the receiver's exit code, and the SHA-256 of what was sent.

    Raises StoreDownError when the receiver does not start or does not end in time.
    """
    name = await runner.create(job)
    pod, container = (
        await _started(runner, name),
        job["spec"]["template"]["spec"]["containers"][0]["name"],
    )
    digest = hashlib.sha256()
    try:
        async with cluster.attach(pod, container) as streams:
            await _send(streams.send, file, digest.update, progress)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    # The log repeats this output completely.
                    async for _ in streams.received():
                        continue
    except StoreDownError as error:
        runner.say(str(error))
    return await runner.follow(name), digest.hexdigest()


async def _send(
    send_bytes: Callable[[bytes], Any],
    file: Path,
    digest: Callable[[bytes], None],
    progress: Callable[[int], None],
) -> None:
    sent = 0
    with file.open("rb") as source:
        while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
            await send_bytes(chunk)
            digest(chunk)
            sent += len(chunk)
            progress(sent)


async def _started(runner: JobRunner, job: str) -> str:
    try:
        async with asyncio.timeout(START_SECONDS):
            return await runner.running_pod(job)
    except TimeoutError as error:
        raise StoreDownError(
            f"no pod of Job {job} runs after {START_SECONDS:g} s: look at it with kubectl"
        ) from error
