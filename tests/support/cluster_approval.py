"""The contract of the caller's name and of approvals, on a real or a fake API server."""

import pytest

from fraudops.cluster.api import Cluster
from fraudops.cluster.identity import JobApprovals, approve, caller, job_named
from fraudops.errors import RefusedError, SettingsError
from fraudops.promotion.approval import APPROVED_BY, REQUESTED_BY
from tests.support.cluster_objects import create_job


class ApprovalContract:
    """Tests of `fraudops.cluster.identity`; the fixtures are those of `KubeApiContract`."""

    async def test_the_server_names_every_caller(self, cluster: Cluster, stranger: Cluster) -> None:
        names = [await caller(cluster), await caller(stranger)]
        assert all(names)
        assert names[0] != names[1]

    @pytest.mark.parametrize("annotations", [{}, {REQUESTED_BY: "bob", "example.com/note": "x"}])
    async def test_an_approval_is_one_annotation_more(
        self, cluster: Cluster, annotations: dict[str, str]
    ) -> None:
        job = await create_job(cluster, "promote", annotations)
        approvals = JobApprovals(cluster, "promote", job["metadata"]["uid"])
        assert APPROVED_BY not in await approvals.annotations()
        await approve(cluster, job, "alice")
        assert await approvals.annotations() == annotations | {APPROVED_BY: "alice"}

    async def test_another_job_of_the_same_name_gets_and_shows_no_approval(
        self, cluster: Cluster
    ) -> None:
        job = await create_job(cluster, "promote", {REQUESTED_BY: "bob"})
        other = job | {"metadata": job["metadata"] | {"uid": "that-of-an-earlier-job"}}
        with pytest.raises(RefusedError, match="has changed"):
            await approve(cluster, other, "alice")
        with pytest.raises(RefusedError, match="was replaced"):
            await JobApprovals(cluster, "promote", "that-of-an-earlier-job").annotations()
        stored = await job_named(cluster, "promote")
        assert stored["metadata"]["annotations"] == {REQUESTED_BY: "bob"}

    async def test_a_missing_job_is_named(self, cluster: Cluster) -> None:
        with pytest.raises(SettingsError, match=f"{cluster.namespace} has no Job none"):
            await job_named(cluster, "none")
