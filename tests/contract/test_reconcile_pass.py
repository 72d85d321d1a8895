"""A pass of the reconciler in a cluster: what it asks of the API, and that it needs no token."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from fraudops.cluster.api import Cluster
from fraudops.cluster.records import ConfigMapRecords
from fraudops.cluster.rollout import ANNOTATION
from fraudops.errors import SettingsError
from fraudops.settings import ClusterSettings, PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import open_promotion_context
from jobs.reconcile import reconcile_all
from tests.support.cluster_objects import create_deployment, create_lease
from tests.support.kube_api import KubeApi
from tests.support.promotion_ports import reserved

RELEASE = "fraudops"
NOWHERE = "127.0.0.1:9"


def settings(cluster: Cluster) -> PromoteJobSettings:
    where = ClusterSettings(release=RELEASE, namespace=cluster.namespace)
    return PromoteJobSettings().model_copy(update={"cluster": where})


@pytest.fixture
def stores_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{NOWHERE}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:secret@{NOWHERE}/fraudops")


@pytest.mark.usefixtures("stores_away")
async def test_it_takes_back_a_dead_promoters_rollout_and_calls_no_pod(
    cluster: Cluster, kube_api: KubeApi, tmp_path: Path
) -> None:
    await create_lease(cluster, f"{RELEASE}-promotion")
    deployment = await create_deployment(
        cluster, f"{RELEASE}-inference", {ANNOTATION: "4/7/d", "other": "stays"}
    )
    record = reserved(4, by="dead")
    assert record.reserved is not None
    rollout = replace(record, reserved=replace(record.reserved, strategy="rollout"))
    records = ConfigMapRecords(cluster, RELEASE)
    await records.compare_and_set(rollout, (await records.read())[1])
    kube_api.requests.clear()

    result = await reconcile_all(settings(cluster), State.at(tmp_path))
    asked = {(method, path.rpartition("/test/")[2]) for method, path in kube_api.requests}
    assert asked == {
        *((method, f"leases/{RELEASE}-promotion") for method in ("GET", "PATCH")),
        *((method, f"configmaps/{RELEASE}-serving") for method in ("GET", "PATCH")),
        *((method, f"deployments/{RELEASE}-inference") for method in ("GET", "PATCH")),
    }
    assert result.late == ("rows",)
    assert (await records.read())[0].reserved is None
    template = (await cluster.call("GET", deployment))["spec"]["template"]
    assert template["metadata"]["annotations"] == {"other": "stays"}


@pytest.mark.usefixtures("stores_away")
async def test_a_promotion_still_needs_the_admin_token(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FRAUDOPS_ADMIN_TOKEN is not set"):
        async with open_promotion_context(settings(cluster), State.at(tmp_path), print):
            pass
