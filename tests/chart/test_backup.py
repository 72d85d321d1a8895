"""The CronJob of the backup: its containers, what each of them holds, and where it runs."""

from typing import Any

import pytest

from jobs.install.backup import SCRIPT
from tests.chart.rendering import Variant, job_spec, kinds, named, notes, pods, refusal, render

ON = ("backup.enabled=true", "backup.existingClaim=backups")
OWN_DATABASE = ("postgresql.enabled=false", "postgresql.existingSecret=own")
S3 = ("mlflow.artifacts.type=s3", "mlflow.artifacts.s3.destination=s3://a/b")


def pod_spec(*settings: str, name: str = "fraudops-backup") -> dict[str, Any]:
    spec = job_spec(named(render(Variant(settings=(*ON, *settings))), "CronJob", name))
    assert spec is not None
    return dict(spec["template"]["spec"])


def order(spec: dict[str, Any]) -> list[str]:
    return [each["name"] for each in (*spec["initContainers"], *spec["containers"])]


def test_each_later_copy_has_what_the_earlier_one_names() -> None:
    """The registry that is dumped knows the recorded version, and the artifacts have its files."""
    assert order(pod_spec()) == ["record", "dump", "backup"]


def test_the_dump_has_the_program_of_the_servers_version_and_runs_the_handed_script() -> None:
    spec = pod_spec("postgresql.image.tag=18.1-trixie", "postgresql.image.registry=r.example.com")
    dump = spec["initContainers"][1]
    assert dump["image"] == "r.example.com/postgres:18.1-trixie"
    assert dump["command"] == ["sh", f"/hand-over/{SCRIPT}"]
    assert "env" not in dump


def test_an_own_database_is_not_dumped_and_not_read() -> None:
    spec = pod_spec(*OWN_DATABASE)
    assert order(spec) == ["record", "backup"]
    names = {entry["name"] for entry in spec["initContainers"][0]["env"]}
    assert not names & {"DATABASE_URL", "MLFLOW_BACKEND_STORE_URI"}
    manifests = render(Variant(settings=(*ON, *OWN_DATABASE)))
    labels = next(
        template["metadata"]["labels"]
        for owner, template in pods(manifests)
        if owner == "CronJob fraudops-backup"
    )
    assert "fraudops.io/access-postgresql" not in labels


def test_the_artifacts_are_read_where_their_volume_is_mounted() -> None:
    spec = pod_spec()
    mount = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}["artifacts"]
    assert mount["readOnly"] is True
    [term] = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "mlflow"


@pytest.mark.parametrize("settings", [S3, ("mlflow.enabled=false", "mlflow.url=https://m")])
def test_artifacts_outside_of_the_release_are_not_copied(settings: tuple[str, ...]) -> None:
    spec = pod_spec(*settings)
    assert "affinity" not in spec
    assert "--artifacts" not in spec["containers"][0]["args"]
    assert "artifacts" not in {volume["name"] for volume in spec["volumes"]}


def test_other_affinities_of_the_site_stay() -> None:
    rule = "backup.pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    key = f"{rule}.nodeSelectorTerms[0].matchExpressions[0]"
    spec = pod_spec(f"{key}.key=disk", f"{key}.operator=Exists")
    assert set(spec["affinity"]) == {"podAffinity", "nodeAffinity"}


def test_the_claim_of_the_backups_is_the_sites() -> None:
    assert "needs backup.existingClaim" in refusal("backup.enabled=true")
    claims = kinds(render(Variant(settings=ON)), "PersistentVolumeClaim")
    assert "backups" not in {claim["metadata"]["name"] for claim in claims}


def test_without_a_schedule_a_person_starts_the_backup() -> None:
    def suspended(*settings: str) -> Any:
        manifests = render(Variant(settings=(*ON, *settings)))
        return named(manifests, "CronJob", "fraudops-backup")["spec"]["suspend"]

    assert suspended() is True
    assert suspended("backup.schedule=@daily") is False


def test_nothing_of_it_is_there_by_default() -> None:
    assert not any("backup" in manifest["metadata"]["name"] for manifest in render())


def test_the_notes_say_whether_the_bundled_database_is_backed_up() -> None:
    assert "one pod without backups" in notes(*ON)
    assert "one pod that a CronJob backs up" in notes(*ON, "backup.schedule=@daily")


def test_two_releases_that_share_a_claim_have_a_folder_each() -> None:
    for settings, folder in (((), "fraudops"), (("fullnameOverride=other",), "other")):
        spec = pod_spec(*settings, name=f"{folder}-backup")
        for step in (spec["initContainers"][0], spec["containers"][0]):
            assert step["args"][1:3] == ["--volume", f"/backup/{folder}"]
