"""Rules for every Job and CronJob: deadlines, retries, names, arguments and data."""

import pytest

from fraudops.cluster.runner import STEPS
from fraudops.errors import RefusedError, SettingsError, StoreDownError
from tests.chart.rendering import (
    EVERYTHING,
    Manifest,
    Variant,
    containers,
    environment,
    job_spec,
    kinds,
    named,
    pods,
    render,
    title,
)

ON_DEMAND = {"train", "validate", "promote", "pipeline"}
ONCE = {"setup", "migrate", "bootstrap"}


def test_every_job_has_a_deadline_and_is_retried_by_its_exit_code(
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


def test_a_promotion_is_retried_three_times() -> None:
    for name in ("promote", "pipeline", "bootstrap"):
        jobs = [
            m
            for m in kinds(render(EVERYTHING), "Job", "CronJob")
            if m["metadata"]["labels"]["app.kubernetes.io/component"] == name
        ]
        assert [job_spec(manifest)["backoffLimit"] for manifest in jobs] == [3]  # type: ignore[index]


def test_finished_jobs_of_a_cronjob_are_deleted(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, "CronJob"):
        spec = manifest["spec"]
        assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] >= 600, title(manifest)
        assert spec["successfulJobsHistoryLimit"] <= 3, title(manifest)
        assert spec["concurrencyPolicy"] == "Forbid", title(manifest)
        assert spec["startingDeadlineSeconds"] >= 60, title(manifest)


def test_jobs_that_run_on_demand_are_suspended_templates() -> None:
    cron = {
        manifest["metadata"]["name"].removeprefix("fraudops-"): manifest["spec"]
        for manifest in kinds(render(), "CronJob")
    }
    assert {name for name, spec in cron.items() if spec["suspend"]} == ON_DEMAND
    assert set(cron) - ON_DEMAND == {"drift", "retention"}


def test_scoring_is_a_template_in_shards_that_writes_to_the_data_volume() -> None:
    """Without a data volume the template is not rendered, and the chart renders no claim for it.

    Only a suspended template would mount that claim, so the claim would stay unbound.
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
    mounts = [
        (m["metadata"]["name"].removeprefix("fraudops-"), container, mount["readOnly"])
        for m in kinds(manifests, "CronJob")
        for container, mount in data_mounts(m)
    ]
    assert sorted(mounts) == [
        ("labels", "labels", False),
        ("pipeline", "train", True),
        ("pipeline", "validate", True),
        ("score", "score", False),
        ("train", "train", True),
        ("validate", "validate", True),
    ]
    assert not [
        claim
        for claim in kinds(manifests, "PersistentVolumeClaim")
        if claim["metadata"]["name"] == "fraudops-data"
    ]


def test_labels_are_imported_from_the_data_volume_with_the_database_and_no_account() -> None:
    assert "fraudops-labels" not in {manifest["metadata"]["name"] for manifest in render()}
    settings = ("data.source=volume", "jobs.labels.args={import,/data/labels.csv}")
    cron = named(render(Variant(settings=settings)), "CronJob", "fraudops-labels")
    assert cron["spec"]["suspend"] is True
    spec = job_spec(cron)
    assert spec is not None
    assert spec["activeDeadlineSeconds"] == 14_400
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["command"], container["args"]) == (
        ["python", "-m", "jobs.labels"],
        ["import", "/data/labels.csv"],
    )
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("default", False)


def test_only_the_retention_knows_the_days_of_labels() -> None:
    """A pod of release 0.2.0 that starts against the new ConfigMap would refuse the variable."""
    manifests = render(Variant(settings=("retention.labelDays=90", "data.source=volume")))
    name = "FRAUDOPS_RETENTION__LABEL_DAYS"
    assert not any(name in manifest["data"] for manifest in kinds(manifests, "ConfigMap"))
    knowing = {
        container["name"]: environment(manifests, container)[name]
        for _, _, container in containers(manifests)
        if name in environment(manifests, container)
    }
    assert knowing == {"retention": "90"}


def data_mounts(manifest: Manifest) -> list[tuple[str, dict[str, object]]]:
    """Return each container that mounts the data, with the mount."""
    spec = job_spec(manifest)
    assert spec is not None
    pod = spec["template"]["spec"]
    return [
        (container["name"], mount)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        for mount in container["volumeMounts"]
        if mount["name"] == "data"
    ]


def test_the_command_line_knows_the_steps_of_the_chart() -> None:
    settings = ("bootstrap.enabled=true", "environment=development")
    steps = {
        container["name"]
        for _, template in pods(render(Variant(settings=settings)))
        for container in template["spec"].get("initContainers", [])
        if container["command"][2].startswith("jobs.")
    }
    assert steps == STEPS


def test_a_suspended_template_has_all_the_arguments_that_it_needs() -> None:
    # `kubectl create job --from=cronjob/…` cannot add arguments.
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
    """Return the names of the plain Jobs by their component."""
    return {
        manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest["metadata"]["name"]
        for manifest in kinds(render(Variant(EVERYTHING.files, settings)), "Job")
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


def test_jobs_that_run_once_stay_until_the_next_ones_replace_them(
    manifests: list[Manifest],
) -> None:
    """Helm would make and run a Job again at every upgrade if its time to live had deleted it."""
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
def test_a_job_that_is_disabled_is_not_rendered(setting: str, component: str) -> None:
    assert component not in once_jobs(setting)


def setup_options(*settings: str) -> list[str]:
    """Return the options of the setup Job and the resources that its role may create."""
    manifests = render(Variant(settings=settings))
    jobs = [
        m
        for m in kinds(manifests, "Job")
        if m["metadata"]["labels"]["app.kubernetes.io/component"] == "setup"
    ]
    options: list[str] = [
        argument
        for argument in jobs[0]["spec"]["template"]["spec"]["containers"][0]["args"]
        if argument.startswith("--")
    ]
    return [*options, *named(manifests, "Role", "fraudops-setup")["rules"][0]["resources"]]


def test_setup_makes_only_objects_that_the_values_do_not_name() -> None:
    keys = {"--verdict-key", "--waiver-key", "--public-keys"}
    made = keys | {"--admin-secret", "--database-secret", "--record", "configmaps", "secrets"}
    assert made <= set(setup_options())
    assert {"--data-claim", "persistentvolumeclaims"} <= set(setup_options("data.source=volume"))
    remaining = setup_options(
        "adminToken.existingSecret=a",
        "postgresql.existingSecret=b",
        "data.source=volume",
        "data.volume.existingClaim=c",
        "signing.verdictKey.existingSecret=d",
        "signing.waiverKey.existingSecret=e",
        "signing.publicKeys.existingSecret=f",
    )
    assert not {
        "--verdict-key",
        "--waiver-key",
        "--public-keys",
        "--admin-secret",
        "--database-secret",
        "--data-claim",
        "secrets",
        "persistentvolumeclaims",
    } & set(remaining)
    assert "--record" in remaining


def train_data(*settings: str) -> tuple[str | None, set[str], list[str]]:
    """Return FRAUDOPS_DATA, the mounts and the init containers of the training template."""
    spec = job_spec(named(render(Variant(settings=settings)), "CronJob", "fraudops-train"))[
        "template"
    ]["spec"]  # type: ignore[index]
    container = spec["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    return (
        variables.get("FRAUDOPS_DATA"),
        {mount["mountPath"] for mount in container["volumeMounts"]},
        [c["name"] for c in spec.get("initContainers", [])],
    )


def test_the_data_is_mounted_at_the_path_in_the_environment_of_the_jobs() -> None:
    assert train_data() == (None, {"/tmp"}, [])
    assert train_data("data.source=volume", "data.file=own.parquet") == (
        "/data/own.parquet",
        {"/tmp", "/data"},
        [],
    )
    url = ("data.source=url", "data.url=https://example.com/x.csv", f"data.sha256={'0' * 64}")
    assert train_data(*url) == ("/data/creditcard.csv", {"/tmp", "/data"}, ["fetch-data"])
