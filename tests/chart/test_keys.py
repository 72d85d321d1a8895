"""The table of containers: the Secrets that each one reads, and whether it has an API token.

A container that is not in the table has no Secret and no token. A row must change here before the
chart can give a container more.
"""

from collections import Counter
from typing import Any

import pytest

from fraudops.cluster.keys import MOUNTED, PUBLIC
from tests.chart.rendering import (
    Manifest,
    Variant,
    environment,
    job_spec,
    kinds,
    named,
    pods,
    refusal,
    render,
)

TOKEN = "API token"
ADMIN, DATABASE = "fraudops-admin", "fraudops-database"
VERDICT_KEY, WAIVER_KEY = "fraudops-verdict-key", "fraudops-waiver-key"
PUBLIC_KEYS = "fraudops-public-keys"
PROMOTES = {ADMIN, DATABASE, PUBLIC_KEYS, TOKEN}
# Component and container: what it holds. Of the pods with several containers that sign or promote,
# each holds its own key alone.
TABLE: dict[tuple[str, str], set[str]] = {
    ("backup", "record"): {DATABASE, TOKEN},
    ("backup", "dump"): set(),
    ("backup", "backup"): set(),
    ("bootstrap", "wait"): {ADMIN, DATABASE, TOKEN},
    ("bootstrap", "train"): set(),
    ("bootstrap", "validate"): {VERDICT_KEY},
    ("bootstrap", "promote"): PROMOTES,
    ("drift", "drift"): {DATABASE, PUBLIC_KEYS, TOKEN},
    ("inference", "shipper"): {ADMIN, DATABASE},
    ("inference", "inference"): {ADMIN, PUBLIC_KEYS, TOKEN},
    ("labels", "labels"): {DATABASE},
    ("migrate", "migrate"): {DATABASE},
    ("mlflow", "mlflow"): {DATABASE},
    ("mlflow", "wait-for-database"): {DATABASE},
    ("pipeline", "train"): set(),
    ("pipeline", "validate"): {VERDICT_KEY},
    ("pipeline", "promote"): PROMOTES,
    ("postgresql", "postgresql"): {DATABASE},
    ("promote", "waive"): {WAIVER_KEY},
    ("promote", "promote"): PROMOTES,
    ("reconcile", "reconcile"): {DATABASE, TOKEN},
    ("retention", "retention"): {DATABASE},
    ("score", "score"): {PUBLIC_KEYS, TOKEN},
    ("setup", "setup"): {TOKEN},
    ("test", "test"): {DATABASE},
    ("train", "train"): set(),
    ("validate", "validate"): {VERDICT_KEY},
}


def secrets_of_environment(container: dict[str, Any]) -> set[str]:
    """Return the Secrets whose values are variables of the container."""
    references = [
        entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in container.get("env", [])
        if "secretKeyRef" in entry.get("valueFrom", {})
    ]
    sources = [
        source["secretRef"]["name"]
        for source in container.get("envFrom", [])
        if "secretRef" in source
    ]
    return {*references, *sources}


def held_by_volume(volume: dict[str, Any]) -> set[str]:
    """Return the Secrets of a volume, and TOKEN if it has the token of a ServiceAccount."""
    sources = [volume, *volume.get("projected", {}).get("sources", [])]
    held = {
        source["secret"].get("secretName") or source["secret"]["name"]
        for source in sources
        if "secret" in source
    }
    return held | {TOKEN for source in sources if "serviceAccountToken" in source}


def held(manifests: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    """Return what each container of each workload holds, by component and container."""
    table: dict[tuple[str, str], set[str]] = {}
    for owner, template in pods(manifests):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, owner
        names = Counter(volume["name"] for volume in spec.get("volumes", []))
        assert max(names.values(), default=1) == 1, f"{owner} has two volumes of one name"
        volumes = {volume["name"]: held_by_volume(volume) for volume in spec.get("volumes", [])}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            mounted = (
                volumes.get(mount["name"], set()) for mount in container.get("volumeMounts", [])
            )
            key = (template["metadata"]["labels"]["app.kubernetes.io/component"], container["name"])
            table[key] = secrets_of_environment(container).union(*mounted)
    return table


def test_the_keys_of_clients_are_files_of_the_service_and_the_test_holds_its_own_key() -> None:
    clients = (
        *("clientAuth.mode=required", "clientAuth.existingSecret=client-keys"),
        *("clientAuth.secretKey=mine.json", "clientAuth.jwksExistingSecret=client-jwks"),
        *("clientAuth.jwtIssuer=i", "clientAuth.jwtAudience=a"),
        *("clientAuth.testKeyExistingSecret=test-key", "clientAuth.testKeySecretKey=own"),
    )
    manifests = render(Variant(settings=clients))
    before = held(render())
    added = {key: secrets - before[key] for key, secrets in held(manifests).items()}
    assert {key: secrets for key, secrets in added.items() if secrets} == {
        ("inference", "inference"): {"client-keys", "client-jwks"},
        ("test", "test"): {"test-key"},
    }
    (test,) = named(manifests, "Pod", "fraudops-test-prediction")["spec"]["containers"]
    (key,) = (each["valueFrom"] for each in test["env"] if each["name"] == "FRAUDOPS_API_KEY")
    assert key == {"secretKeyRef": {"name": "test-key", "key": "own"}}
    spec = named(manifests, "Deployment", "fraudops-inference")["spec"]["template"]["spec"]
    (container,) = (each for each in spec["containers"] if each["name"] == "inference")
    variables = environment(manifests, container)
    for name, item, variable in (
        ("client-keys", ("mine.json", "keys.json"), "FRAUDOPS_CLIENT_AUTH__KEYS_FILE"),
        ("client-jwks", ("jwks.json", "jwks.json"), "FRAUDOPS_CLIENT_AUTH__JWKS_FILE"),
    ):
        (volume,) = (each["secret"] for each in spec["volumes"] if each["name"] == name)
        assert (volume["defaultMode"], volume["items"]) == (
            0o400,
            [{"key": item[0], "path": item[1]}],
        )
        # A subPath would never change in a running pod.
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == name)
        assert mount.get("readOnly")
        assert "subPath" not in mount
        assert variables[variable] == f"{mount['mountPath']}/{item[1]}"


ISSUER = "jwtIssuer: i, jwtAudience: a"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("mode: required", "clientAuth.existingSecret the Secret with the keys' hashes"),
        ("mode: optional", "clientAuth.mode is optional: name in"),
        ("mode: required, jwksUrl: 'https://a/b'", "need jwtIssuer and jwtAudience"),
        ("mode: required, jwksExistingSecret: a, jwtIssuer: i", "need jwtIssuer and jwtAudience"),
        (f"jwksUrl: 'https://a/b', jwksExistingSecret: a, {ISSUER}", "set either jwksUrl or"),
        (f"jwksUrl: 'http://a/b', {ISSUER}", "must begin with https://"),
        (f"jwksUrl: 'https://me:hunter2@a/b', {ISSUER}", "no user and no password"),
        ("mode: off", "/clientAuth/mode"),
        ("ratePerSecond: 0", "/clientAuth/ratePerSecond"),
    ],
)
def test_values_that_would_let_no_client_in_or_every_one_are_refused(
    values: str, message: str
) -> None:
    refused = refusal(values=f"clientAuth: {{{values}}}")
    assert message in refused
    assert "hunter2" not in refused


def test_the_test_of_the_chart_knows_whether_it_needs_a_key() -> None:
    smoke_test = ["python", "-m", "jobs.install.smoke_test"]
    for mode, options in (("required", ["--needs-key"]), ("optional", []), ("disabled", [])):
        given = ("clientAuth.existingSecret=keys", f"clientAuth.mode={mode}")
        pod = named(render(Variant(settings=given)), "Pod", "fraudops-test-prediction")
        assert pod["spec"]["containers"][0]["command"] == [*smoke_test, *options]


@pytest.mark.parametrize("secret_as", ["variable", "file"])
def test_each_container_holds_exactly_the_secrets_of_the_table(secret_as: str) -> None:
    every = (
        *("data.source=volume", "bootstrap.enabled=true", f"postgresql.secretAs={secret_as}"),
        *("backup.enabled=true", "backup.existingClaim=backups"),
    )
    found = held(render(Variant(settings=every)))
    assert found == TABLE


def test_no_variant_gives_a_container_a_key_or_a_token_that_the_table_does_not(
    manifests: list[Manifest],
) -> None:
    keys = {VERDICT_KEY, WAIVER_KEY, PUBLIC_KEYS, TOKEN}
    for container, secrets in held(manifests).items():
        assert secrets & keys == TABLE.get(container, set()) & keys, container


def pod_of(name: str, *settings: str) -> dict[str, Any]:
    spec = job_spec(named(render(Variant(settings=settings)), "CronJob", f"fraudops-{name}"))
    assert spec is not None
    return dict(spec["template"]["spec"])


def test_steps_of_one_pod_share_only_the_hand_over_for_writing() -> None:
    """A file that one step writes to /tmp could otherwise change the program of the next one."""
    sources = (
        ("data.source=volume",),
        ("data.source=url", "data.url=https://example.com/x.csv", f"data.sha256={'0' * 64}"),
    )
    for settings in sources:
        for name in ("pipeline", "promote"):
            spec = pod_of(name, *settings)
            steps = [found for found in spec["initContainers"] if found["name"] != "fetch-data"]
            writable = Counter(
                (mount["name"], mount.get("subPath"))
                for container in [*steps, *spec["containers"]]
                for mount in container["volumeMounts"]
                if not mount.get("readOnly")
            )
            shared = {mount for mount, count in writable.items() if count > 1}
            assert shared <= {("hand-over", None)}, name
            # The last container decides, so no step may get anything from it.
            assert ("hand-over", True) in {
                (mount["name"], mount.get("readOnly"))
                for mount in spec["containers"][0]["volumeMounts"]
            }


def test_the_steps_run_in_the_order_of_the_pipeline_with_the_same_arguments() -> None:
    spec = pod_of("pipeline", "jobs.pipeline.args={--split,time}", "data.prevalence=0.002")
    containers = [*spec["initContainers"], *spec["containers"]]
    assert [container["name"] for container in containers] == ["train", "validate", "promote"]
    for container in containers:
        assert container["args"] == [
            *("--step", container["name"], "--hand-over", "/hand-over/steps.json"),
            *("--prevalence", "0.002", "--split", "time"),
        ]


def test_every_step_of_a_promotion_knows_the_id_of_its_request() -> None:
    for name in ("pipeline", "promote"):
        spec = pod_of(name)
        for container in [*spec["initContainers"], *spec["containers"]]:
            names = [entry["name"] for entry in container["env"]]
            assert "FRAUDOPS_REQUEST_ID" in names, (name, container["name"])


def test_a_failed_step_ends_the_job_as_its_last_container_does(manifests: list[Manifest]) -> None:
    """A rule without a container's name holds for init containers too."""
    for manifest in kinds(manifests, "Job", "CronJob"):
        spec = job_spec(manifest)
        assert spec is not None
        for rule in spec["podFailurePolicy"]["rules"]:
            assert "containerName" not in rule.get("onExitCodes", {})


def test_the_waiver_is_handed_over_in_the_file_that_the_promotion_reads() -> None:
    manifests = render()
    spec = pod_of("promote")
    waive, promote = spec["initContainers"][0], spec["containers"][0]
    assert waive["args"] == promote["args"]
    for container in (waive, promote):
        assert environment(manifests, container)["FRAUDOPS_WAIVER"] == "/hand-over/waiver.json"


def test_forbidden_waivers_need_no_key_and_no_step() -> None:
    manifests = render(Variant(settings=("signing.waivers=forbidden",)))
    assert "initContainers" not in pod_of("promote", "signing.waivers=forbidden")
    assert not any(WAIVER_KEY in secrets for secrets in held(manifests).values())
    role = named(manifests, "Role", "fraudops-setup")
    assert not any(WAIVER_KEY in rule.get("resourceNames", []) for rule in role["rules"])
    data = named(manifests, "ConfigMap", "fraudops-jobs")["data"]
    assert data["FRAUDOPS_SIGNING__WAIVERS"] == "forbidden"


def test_the_command_keys_finds_the_secrets_in_the_volumes_of_the_templates() -> None:
    for purpose, (template, volume) in MOUNTED.items():
        volumes = {found["name"]: found for found in pod_of(template)["volumes"]}
        secret = volumes[volume]["secret"]
        assert secret["secretName"] == f"fraudops-{purpose}-key"
        assert [item["key"] for item in secret["items"]] == ["key.pem"]
    template, volume = PUBLIC
    volumes = {found["name"]: found for found in pod_of(template)["volumes"]}
    assert volumes[volume]["secret"]["secretName"] == PUBLIC_KEYS


OWN = (
    "signing.verdictKey.existingSecret=own-verdict",
    "signing.waiverKey.existingSecret=own-waiver",
    "signing.publicKeys.existingSecret=own-public",
)


def test_own_secrets_replace_those_of_the_setup_job() -> None:
    manifests = render(Variant(settings=(*OWN, "signing.verdictKey.secretKey=private")))
    found = held(manifests)
    assert found["validate", "validate"] == {"own-verdict"}
    assert found["promote", "waive"] == {"own-waiver"}
    assert "own-public" in found["inference", "inference"]
    validate = job_spec(named(manifests, "CronJob", "fraudops-validate"))
    assert validate is not None
    volumes = {volume["name"]: volume for volume in validate["template"]["spec"]["volumes"]}
    assert volumes["verdict-key"]["secret"]["items"] == [{"key": "private", "path": "key.pem"}]
    role = named(manifests, "Role", "fraudops-setup")
    names = {name for rule in role["rules"] for name in rule.get("resourceNames", [])}
    assert names == {ADMIN, DATABASE}


def test_own_secrets_are_named_for_all_keys_or_for_none() -> None:
    for setting in OWN:
        assert "for all keys or for none" in refusal(setting)
    assert "for all keys or for none" in refusal(OWN[0], OWN[1])
    without = (OWN[0], OWN[2], "signing.waivers=forbidden")
    assert render(Variant(settings=without))
