"""Rules over every Job and CronJob: what ends it, what is tried again, and that a plain Job's name
is its content.
"""

import pytest

from fraudops.errors import RefusedError, SettingsError, StoreDownError
from tests.chart.rendering import (
    EVERYTHING,
    Manifest,
    Variant,
    environment,
    job_spec,
    kinds,
    named,
    render,
    title,
)

ON_DEMAND = {"train", "validate", "promote", "pipeline"}
ONCE = {"setup", "migrate", "bootstrap"}


def test_every_job_ends_and_says_by_its_exit_code_whether_to_try_again(
    manifests: list[Manifest],
) -> None:
    for manifest in kinds(manifests, "Job", "CronJob"):
        spec = job_spec(manifest)
        assert spec is not None
        assert spec["activeDeadlineSeconds"] > 0, title(manifest)
        assert spec["template"]["spec"]["restartPolicy"] == "Never", title(manifest)
        rules = spec["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"], title(manifest)
        assert rules[1]["onExitCodes"]["values"] == [
            SettingsError.exit_code,
            RefusedError.exit_code,
        ], title(manifest)
        assert StoreDownError.exit_code not in rules[1]["onExitCodes"]["values"]


def test_a_promotion_is_tried_three_times_more() -> None:
    for name in ("promote", "pipeline", "bootstrap"):
        found = [
            m
            for m in kinds(render(EVERYTHING), "Job", "CronJob")
            if m["metadata"]["labels"]["app.kubernetes.io/component"] == name
        ]
        assert [job_spec(manifest)["backoffLimit"] for manifest in found] == [3]  # type: ignore[index]


def test_jobs_that_are_started_again_and_again_are_cleared_away(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, "CronJob"):
        spec = manifest["spec"]
        assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] >= 600, title(manifest)
        assert spec["successfulJobsHistoryLimit"] <= 3, title(manifest)
        assert spec["concurrencyPolicy"] == "Forbid", title(manifest)
        assert spec["startingDeadlineSeconds"] >= 60, title(manifest)


def test_what_runs_on_demand_is_a_suspended_template() -> None:
    cron = {
        manifest["metadata"]["name"].removeprefix("fraudops-"): manifest["spec"]
        for manifest in kinds(render(), "CronJob")
    }
    assert {name for name, spec in cron.items() if spec["suspend"]} == ON_DEMAND
    assert set(cron) - ON_DEMAND == {"drift", "retention", "reconcile"}
    assert cron["reconcile"]["schedule"] == "* * * * *"


def test_scoring_is_a_template_in_shards_that_writes_to_the_data_volume() -> None:
    """Without a volume it is not there; and no claim is rendered, which a suspended template alone
    would leave waiting.
    """
    assert "fraudops-score" not in {manifest["metadata"]["name"] for manifest in render()}
    manifests = render(
        Variant(
            settings=(
                "data.source=volume",
                "jobs.score.shards=4",
                "jobs.score.args={--keep,Amount}",
            )
        )
    )
    cron = named(manifests, "CronJob", "fraudops-score")
    spec = job_spec(cron)
    assert spec is not None
    assert cron["spec"]["suspend"] is True
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    container = spec["template"]["spec"]["containers"][0]
    assert container["args"] == ["--shards", "4", "--keep", "Amount"]
    assert environment(manifests, container)["FRAUDOPS_DATA"] == "/data/creditcard.csv"
    mounts = {
        m["metadata"]["name"]: mount["readOnly"]
        for m in kinds(manifests, "CronJob")
        for mount in data_mounts(m)
    }
    assert mounts == {
        "fraudops-train": True,
        "fraudops-validate": True,
        "fraudops-pipeline": True,
        "fraudops-score": False,
    }
    assert not [
        claim
        for claim in kinds(manifests, "PersistentVolumeClaim")
        if claim["metadata"]["name"] == "fraudops-data"
    ]


def data_mounts(manifest: Manifest) -> list[dict[str, object]]:
    spec = job_spec(manifest)
    assert spec is not None
    return [
        mount
        for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] == "data"
    ]


def test_a_suspended_template_starts_with_what_it_needs() -> None:
    """`kubectl create job --from=cronjob/…` cannot add arguments."""
    args = {
        m["metadata"]["name"]: job_spec(m)["template"]["spec"]["containers"][0].get("args")
        for m in kinds(render(), "CronJob")
    }  # type: ignore[index]
    assert args["fraudops-train"] is None
    assert args["fraudops-promote"] == args["fraudops-validate"] == ["--version", "latest"]


def test_all_tries_of_a_promotion_are_one_request(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, "Job", "CronJob"):
        container = job_spec(manifest)["template"]["spec"]["containers"][0]  # type: ignore[index]
        variables = {entry["name"]: entry for entry in container.get("env", [])}
        assert ("FRAUDOPS_REQUEST_ID" in variables) == ("FRAUDOPS_ADMIN_TOKEN" in variables), title(
            manifest
        )
        if "FRAUDOPS_REQUEST_ID" in variables:
            assert (
                variables["FRAUDOPS_REQUEST_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
                == "metadata.labels['batch.kubernetes.io/controller-uid']"
            )


def once_jobs(*settings: str) -> dict[str, str]:
    """Component → name of the plain Jobs."""
    found = kinds(render(Variant(EVERYTHING.files, settings)), "Job")
    return {
        manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest["metadata"]["name"]
        for manifest in found
    }


def test_jobs_that_run_once_are_named_by_their_content() -> None:
    before = once_jobs()
    assert set(before) == ONCE
    assert once_jobs() == before
    assert {
        name for name, job in once_jobs("jobs.image.tag=9.9.9").items() if job != before[name]
    } == ONCE
    assert {
        name
        for name, job in once_jobs("jobs.migrate.resources.limits.memory=3Gi").items()
        if job != before[name]
    } == {"migrate"}
    assert {
        name for name, job in once_jobs("data.prevalence=0.002").items() if job != before[name]
    } == {"bootstrap"}
    assert {
        name
        for name, job in once_jobs("inference.workers=8", "gates.rocAuc=0.95").items()
        if job != before[name]
    } == set()


def test_jobs_that_run_once_stay_until_their_successors_come(manifests: list[Manifest]) -> None:
    """One that vanished would be made, and would run, again at every `helm upgrade`."""
    for manifest in kinds(manifests, "Job"):
        hooked = "helm.sh/hook" in manifest["metadata"].get("annotations", {})
        assert ("ttlSecondsAfterFinished" in manifest["spec"]) == hooked, title(manifest)


def test_the_migration_before_an_upgrade_reads_no_config_map_and_ends_before_helm_does() -> None:
    upgrade = named(
        render(Variant(EVERYTHING.files, upgrade=True)), "Job", "fraudops-migrate-before-upgrade"
    )["spec"]
    container = upgrade["template"]["spec"]["containers"][0]
    assert "envFrom" not in container
    assert upgrade["activeDeadlineSeconds"] < 300
    assert (
        float(container["args"][container["args"].index("--wait") + 1])
        * (upgrade["backoffLimit"] + 1)
        < upgrade["activeDeadlineSeconds"]
    )
    assert {
        entry["valueFrom"]["secretKeyRef"]["optional"]
        for entry in container["env"]
        if "valueFrom" in entry
    } == {True}
    assert "--if-set-up" in container["args"]


@pytest.mark.parametrize(
    ("setting", "component"),
    [("jobs.migrate.enabled=false", "migrate"), ("bootstrap.enabled=false", "bootstrap")],
)
def test_a_job_that_is_switched_off_is_not_there(setting: str, component: str) -> None:
    assert component not in once_jobs(setting)


def test_setup_makes_only_what_is_not_given() -> None:
    def setup(*settings: str) -> list[str]:
        manifests = render(Variant(settings=settings))
        jobs = [
            m
            for m in kinds(manifests, "Job")
            if m["metadata"]["labels"]["app.kubernetes.io/component"] == "setup"
        ]
        made: list[str] = [
            argument
            for argument in jobs[0]["spec"]["template"]["spec"]["containers"][0]["args"]
            if argument.startswith("--")
        ]
        return [*made, *named(manifests, "Role", "fraudops-setup")["rules"][0]["resources"]]

    assert {"--admin-secret", "--database-secret", "--record", "configmaps", "secrets"} <= set(
        setup()
    )
    assert {"--data-claim", "persistentvolumeclaims"} <= set(setup("data.source=volume"))
    given = setup(
        "adminToken.existingSecret=a",
        "postgresql.existingSecret=b",
        "data.source=volume",
        "data.volume.existingClaim=c",
    )
    assert not {
        "--admin-secret",
        "--database-secret",
        "--data-claim",
        "secrets",
        "persistentvolumeclaims",
    } & set(given)
    assert "--record" in given


def test_the_data_is_where_the_jobs_are_told_it_is() -> None:
    def train(*settings: str) -> tuple[str | None, set[str], list[str]]:
        spec = job_spec(named(render(Variant(settings=settings)), "CronJob", "fraudops-train"))[
            "template"
        ]["spec"]  # type: ignore[index]
        container = spec["containers"][0]
        path = next(
            (
                entry["value"]
                for entry in container.get("env", [])
                if entry["name"] == "FRAUDOPS_DATA"
            ),
            None,
        )
        return (
            path,
            {mount["mountPath"] for mount in container["volumeMounts"]},
            [c["name"] for c in spec.get("initContainers", [])],
        )

    assert train() == (None, {"/tmp"}, [])
    assert train("data.source=volume", "data.file=own.parquet") == (
        "/data/own.parquet",
        {"/tmp", "/data"},
        [],
    )
    url = ("data.source=url", "data.url=https://example.com/x.csv", f"data.sha256={'0' * 64}")
    assert train(*url) == ("/data/creditcard.csv", {"/tmp", "/data"}, ["fetch-data"])
