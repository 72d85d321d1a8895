"""The disk of the audit spool: large enough, and optionally a volume that outlives the pod."""

import math
import re
from typing import Any

import pytest

from tests.chart.rendering import (
    EVERYTHING,
    Manifest,
    Variant,
    containers,
    environment,
    kinds,
    named,
    notes,
    refusal,
    render,
)

GI = 1 << 30
PERSISTENT = "inference.spool.persistence.enabled=true"
PERSISTENCE = "inference.spool.persistence"


def pod_spec(manifests: list[Manifest]) -> dict[str, Any]:
    return dict(named(manifests, "Deployment", "fraudops-inference")["spec"]["template"]["spec"])


def volume(*settings: str, name: str = "state") -> dict[str, Any]:
    return next(
        dict(volume)
        for volume in pod_spec(render(Variant(settings=settings)))["volumes"]
        if volume["name"] == name
    )


@pytest.mark.parametrize("spool", [1 << 20, 1 << 28, GI, 16 * GI, (1 << 34) + 1])
def test_the_state_is_large_enough_for_spool_and_bundles(spool: int) -> None:
    size = (
        int(volume(f"audit.spoolMaxBytes={spool}")["emptyDir"]["sizeLimit"].removesuffix("Mi"))
        << 20
    )
    assert spool <= 0.7 * size
    assert spool + GI <= size


@pytest.mark.parametrize("size", ["10Gi", "10485760Ki", "10737418240000m", "10.5G", "0.0105T"])
def test_a_spool_that_its_disk_cannot_hold_is_refused(size: str) -> None:
    bound = math.floor(
        0.7 * {"10Gi": 10 * GI, "10485760Ki": 10 * GI, "10737418240000m": 10 * GI}.get(size, 10.5e9)
    )
    for kind in ("emptyDir", "ephemeral"):
        chosen = (f"inference.state.type={kind}", f"inference.state.size={size}")
        assert render(Variant(settings=(*chosen, f"audit.spoolMaxBytes={bound}")))
        message = refusal(*chosen, f"audit.spoolMaxBytes={bound + 1}")
        assert "seven tenths of inference.state.size" in message
    advice = re.search(r"at least (\d+)Mi", message)
    assert advice
    assert render(
        Variant(
            settings=(f"inference.state.size={advice[1]}Mi", f"audit.spoolMaxBytes={bound + 1}")
        )
    )


def test_a_spool_above_the_limit_of_ephemeral_storage_is_refused_for_an_empty_directory() -> None:
    limit = (
        "inference.resources.limits.ephemeral-storage=1Gi",
        "inference.shipper.resources.limits.ephemeral-storage=1Mi",
    )
    below, not_below = (
        f"audit.spoolMaxBytes={GI + (1 << 20) - 1}",
        f"audit.spoolMaxBytes={GI + (1 << 20)}",
    )
    assert render(Variant(settings=(*limit, below)))
    assert "not below the pod's limit of ephemeral-storage" in refusal(*limit, not_below)
    for elsewhere in ("inference.state.type=ephemeral", PERSISTENT):
        assert render(Variant(settings=(*limit, not_below, elsewhere)))


@pytest.mark.parametrize(
    ("settings", "pods"),
    [
        ((), 3),
        (("inference.replicas=5",), 6),
        (("inference.autoscaling.enabled=true",), 11),
        (("inference.replicas=null",), 3),
    ],
)
def test_the_volume_must_hold_the_spools_of_all_pods_and_one_more_during_a_rollout(
    settings: tuple[str, ...], pods: int
) -> None:
    enough, spool = f"{PERSISTENCE}.size=100Gi", 70 * GI // pods
    assert render(Variant(settings=(PERSISTENT, enough, *settings, f"audit.spoolMaxBytes={spool}")))
    message = refusal(PERSISTENT, enough, *settings, f"audit.spoolMaxBytes={spool + pods}")
    assert f"The spools of {pods} pods" in message
    advice = re.search(r"at least (\d+)Mi", message)
    assert advice
    assert render(
        Variant(
            settings=(
                PERSISTENT,
                f"{PERSISTENCE}.size={advice[1]}Mi",
                *settings,
                f"audit.spoolMaxBytes={spool + pods}",
            )
        )
    )
    # The same limit holds for a claim that the site has made.
    assert f"The spools of {pods} pods" in refusal(
        PERSISTENT,
        enough,
        f"{PERSISTENCE}.existingClaim=mine",
        *settings,
        f"audit.spoolMaxBytes={spool + pods}",
    )


def test_the_volume_is_one_claim_for_all_pods() -> None:
    (claim,) = (
        claim
        for claim in kinds(render(EVERYTHING), "PersistentVolumeClaim")
        if claim["metadata"]["name"].endswith("-spool")
    )
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "shared",
        "resources": {"requests": {"storage": "20Gi"}},
    }
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert volume(PERSISTENT, name="spool")["persistentVolumeClaim"] == {
        "claimName": claim["metadata"]["name"]
    }
    assert volume(PERSISTENT)["emptyDir"] == {"sizeLimit": "1024Mi"}
    one_node = render(
        Variant(settings=(PERSISTENT, f"{PERSISTENCE}.accessModes={{ReadWriteOnce}}"))
    )
    assert named(one_node, "PersistentVolumeClaim", "fraudops-inference-spool")["spec"][
        "accessModes"
    ] == ["ReadWriteOnce"]
    assert "accessModes" in refusal(PERSISTENT, f"{PERSISTENCE}.accessModes={{ReadWriteOncePod}}")


def test_an_existing_claim_is_mounted_and_no_other_is_rendered() -> None:
    manifests = render(Variant(settings=(PERSISTENT, f"{PERSISTENCE}.existingClaim=mine")))
    assert not [
        claim
        for claim in kinds(manifests, "PersistentVolumeClaim")
        if "spool" in claim["metadata"]["name"]
    ]
    assert {"name": "spool", "persistentVolumeClaim": {"claimName": "mine"}} in pod_spec(manifests)[
        "volumes"
    ]


def test_service_and_shipper_use_the_same_folder_of_the_volume() -> None:
    manifests = render(Variant(settings=(PERSISTENT,)))
    folders = {}
    for _, _, container in containers(manifests):
        variables = environment(manifests, container)
        if "FRAUDOPS_SPOOL_VOLUME" in variables:
            (mount_path,) = (
                mount["mountPath"]
                for mount in container["volumeMounts"]
                if mount["name"] == "spool"
            )
            folders[container["name"]] = (
                variables["FRAUDOPS_SPOOL_VOLUME"],
                variables["FRAUDOPS_POD"],
            )
            # Another release may use the same claim, so each has its own folder.
            assert variables["FRAUDOPS_SPOOL_VOLUME"] == f"{mount_path}/fraudops"
    assert folders.keys() == {"inference", "shipper"}
    assert len(set(folders.values())) == 1


def test_without_persistence_no_volume_and_no_variable_is_rendered() -> None:
    manifests = render()
    assert [volume["name"] for volume in pod_spec(manifests)["volumes"]] == [
        "state",
        "tmp",
        "public-keys",
        "api-token",
    ]
    assert not any(
        "FRAUDOPS_SPOOL_VOLUME" in environment(manifests, container)
        for _, _, container in containers(manifests)
    )


def test_the_notes_describe_the_effect_of_a_volume() -> None:
    assert "lies on its node's disk" in notes()
    assert "lies on its node's disk" not in notes(PERSISTENT)
    assert "the audit spool" in notes(PERSISTENT)
    assert "every inference pod must run on one node" in notes(
        PERSISTENT, f"{PERSISTENCE}.accessModes={{ReadWriteOnce}}"
    )
