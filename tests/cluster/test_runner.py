"""The job runner in a real cluster: Jobs are followed to their end, and a file is uploaded."""

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
    """Return a CronJob with the parts of the chart's training template that the runner uses."""
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


class RunnerSite:
    """A runner that keeps its notices and the log lines of its Jobs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.notices, self.lines = cluster, list[str](), list[str]()
        self.runner = JobRunner(
            cluster, self.notices.append, lambda _, line: self.lines.append(line.decode())
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
async def site(release: Release) -> AsyncIterator[RunnerSite]:
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
            yield RunnerSite(cluster)
        finally:
            await cluster.call("DELETE", f"/api/v1/namespaces/{name}")


async def test_a_job_returns_its_containers_code_and_the_lines_of_every_container(
    site: RunnerSite,
) -> None:
    assert await site.run("65", "0") == 65
    assert site.lines == ["fetched", "try ['65', '0']"]


async def test_a_job_is_followed_over_its_tries_and_a_silent_log(
    site: RunnerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fraudops.cluster.api.FOLLOWING", aiohttp.ClientTimeout(total=None, sock_read=1)
    )
    assert await site.run("75", "3") == 75
    assert site.lines == ["fetched", "try ['75', '3']"] * 2
    assert any("BackoffLimitExceeded" in text for text in site.notices)


async def test_a_job_that_its_deadline_ends_raises_an_error(site: RunnerSite) -> None:
    with pytest.raises(StoreDownError, match="DeadlineExceeded"):
        await site.run("0", "60", activeDeadlineSeconds=8)


async def test_releases_are_found_by_their_training_template(site: RunnerSite) -> None:
    assert await find_release(site.cluster, None) == "shop"
    with pytest.raises(SettingsError, match="there is shop"):
        await find_release(site.cluster, "store")
    with pytest.raises(SettingsError, match="shop-drift"):
        await site.runner.template("shop", "drift")


async def test_a_file_arrives_whole_on_the_data_volume(site: RunnerSite, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(os.urandom(3_000_000))
    spec = JobSpec("train", ("/data/rows.csv", "--size", "3000000"), RECEIVER)
    sent: list[int] = []
    job = receiver_of(await site.runner.template("shop", "train"), "shop-data", spec)
    code, digest = await send(site.cluster, site.runner, job, file, sent.append)
    assert (code, digest, sent[-1]) == (0, hashlib.sha256(file.read_bytes()).hexdigest(), 3_000_000)
    assert site.lines == [f"sha256 {digest}"]
