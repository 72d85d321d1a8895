"""Jobs made from a CronJob and followed to their end, in a real cluster; and a file that goes to
its volume.
"""

import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fraudops.cluster.api import Cluster
from fraudops.cluster.runner import JobRunner, JobSpec, find_release, job_of
from fraudops.cluster.upload import RECEIVER, receiver_of, send
from fraudops.errors import SettingsError, StoreDownError
from tests.cluster.release import Release

PROGRAM = """
import sys, time
print("try", sys.argv[1:], flush=True)
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[1]))
"""


def cronjob(image: str) -> dict[str, Any]:
    """What the chart's training template has, as far as it matters here."""
    container = {
        "name": "train",
        "image": image,
        "command": ["python", "-u", "-c", PROGRAM],
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "data", "mountPath": "/data", "readOnly": True},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
        "initContainers": [
            {"name": "fetch-data", "image": image, "command": ["python", "-c", "print('fetched')"]}
        ],
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ],
    }
    policy = {
        "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [64, 65]}}]
    }
    job = {
        "backoffLimit": 1,
        "activeDeadlineSeconds": 120,
        "podFailurePolicy": policy,
        "template": {"spec": pod},
    }
    labels = {"app.kubernetes.io/name": "fraudops", "app.kubernetes.io/component": "train"}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "shop-train", "labels": labels},
        "spec": {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": job}},
    }


class Followed:
    """A runner with everything that it was told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.said, self.lines = cluster, list[str](), list[str]()
        self.runner = JobRunner(
            cluster, self.said.append, lambda _, line: self.lines.append(line.decode())
        )

    async def run(self, *arguments: str, **changes: Any) -> int:
        job = job_of(
            await self.runner.template("shop", "train"),
            f"shop-train-{uuid.uuid4().hex[:6]}",
            JobSpec("train", arguments),
        )
        job["spec"] |= changes
        return await self.runner.follow(await self.runner.create(job))


@pytest.fixture
async def followed(release: Release) -> AsyncIterator[Followed]:
    name = f"fraudops-test-{uuid.uuid4().hex[:8]}"
    async with Cluster.connect(name) as cluster:
        await cluster.call(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": claim,
        }
        try:
            await cluster.call("POST", cluster.path("v1", "persistentvolumeclaims"), volume)
            await cluster.call(
                "POST", cluster.path("batch/v1", "cronjobs"), cronjob(release.jobs_image)
            )
            yield Followed(cluster)
        finally:
            await cluster.call("DELETE", f"/api/v1/namespaces/{name}")


async def test_a_job_ends_with_its_containers_code_and_every_line_of_every_container(
    followed: Followed,
) -> None:
    assert await followed.run("65", "0") == 65
    assert followed.lines == ["fetched", "try ['65', '0']"]


async def test_a_job_is_followed_over_its_tries_and_through_silence(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fraudops.cluster.api.FOLLOWING", aiohttp.ClientTimeout(total=None, sock_read=1)
    )
    assert await followed.run("75", "3") == 75
    assert followed.lines == ["fetched", "try ['75', '3']"] * 2
    assert any("BackoffLimitExceeded" in text for text in followed.said)


async def test_a_job_that_its_deadline_ends_has_no_code(followed: Followed) -> None:
    with pytest.raises(StoreDownError, match="DeadlineExceeded"):
        await followed.run("0", "60", activeDeadlineSeconds=8)


async def test_releases_are_found_by_their_training_template(followed: Followed) -> None:
    assert await find_release(followed.cluster, None) == "shop"
    with pytest.raises(SettingsError, match="there is shop"):
        await find_release(followed.cluster, "store")
    with pytest.raises(SettingsError, match="shop-drift"):
        await followed.runner.template("shop", "drift")


async def test_a_file_arrives_whole_on_the_data_volume(followed: Followed, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(os.urandom(3_000_000))
    wanted = JobSpec("train", ("/data/rows.csv", "--size", "3000000"), RECEIVER)
    sent: list[int] = []
    job = receiver_of(await followed.runner.template("shop", "train"), "shop-data", wanted)
    code, digest = await send(followed.cluster, followed.runner, job, file, sent.append)
    assert (code, digest, sent[-1]) == (0, hashlib.sha256(file.read_bytes()).hexdigest(), 3_000_000)
    assert followed.lines == [f"sha256 {digest}"]
