"""Each value that adds to a component reaches all pods of that component, and no other pod."""

import json

import jsonschema
import pytest

from tests.chart.extensions import (
    BASE,
    EXTENSIONS,
    LONG_RUNNING,
    ON_CONTAINER,
    ON_POD,
    Extension,
    marked_containers,
    marked_pods,
    merged,
    nested,
    variant,
)
from tests.chart.kubernetes_schemas import KUBERNETES, check, check_all
from tests.chart.rendering import Variant, containers, kinds, named, pods, refusal, render, text_of
from tests.chart.values_schema import SCHEMA, nodes

OWN_BASE = json.dumps(BASE)


def components(extension: Extension) -> set[str]:
    """Return the reached components that this installation has."""
    rendered = {
        template["metadata"]["labels"]["app.kubernetes.io/component"]
        for _, template in pods(render(variant(extension)))
    }
    return set(extension.reaches) & (rendered | {"shipper"})


@pytest.mark.parametrize("extension", EXTENSIONS, ids=str)
def test_a_value_reaches_its_component_and_no_other(extension: Extension) -> None:
    manifests = render(variant(extension))
    # The combinations are checked against both versions.
    check_all(KUBERNETES[:1], text_of(variant(extension)))
    if extension.containers:
        having, lacking = marked_containers(manifests)
        assert having == components(extension)
        assert not having & lacking, "a container of the pod lacks it"
    else:
        assert marked_pods(manifests) == components(extension)


def test_the_matrix_covers_every_extension_of_the_schema() -> None:
    names = {*ON_POD, *ON_CONTAINER, *LONG_RUNNING}
    in_schema = {path for path, _ in nodes(SCHEMA) if path.rpartition(".")[2] in names}
    assert len(in_schema) > 50
    # The top level's is the default of all components, and has a test among the combinations.
    assert in_schema - {extension.path for extension in EXTENSIONS} == {"priorityClassName"}
    of_a_job = set(SCHEMA["$defs"]["jobPod"]["properties"])
    assert of_a_job == names - set(LONG_RUNNING) | {"serviceAccountName"}


def values(**parts: object) -> Variant:
    return Variant(values=json.dumps(merged(BASE, parts)))


def test_a_variable_of_the_values_replaces_the_charts_and_is_there_once() -> None:
    own = [
        {"name": "SSL_CERT_FILE", "value": "/own.crt"},
        {"name": "FRAUDOPS_WORKERS", "value": "9"},
    ]
    manifests = render(values(inference={"extraEnv": own}, caBundle={"configMap": "company"}))
    (service,) = [c for _, _, c in containers(manifests) if c["name"] == "inference"]
    named_so = [entry for entry in service["env"] if entry["name"] == "SSL_CERT_FILE"]
    assert named_so == [own[0]]
    assert own[1] in service["env"]


def test_no_value_replaces_what_a_pod_says_of_itself_or_the_path_of_a_key() -> None:
    """One request id for all promotions would make the next one a retry of the last."""
    trusted = {
        entry["name"]
        for _, _, container in containers(render(values()))
        for entry in container.get("env", [])
        if "fieldRef" in entry.get("valueFrom", {}) or "/keys/" in entry.get("value", "")
    }
    assert {"FRAUDOPS_REQUEST_ID", "FRAUDOPS_SIGNING__VERDICT_KEY"} <= trusted
    cases = {
        *(("jobs", name) for name in trusted),
        *(("jobs.promote.pod", name) for name in ("FRAUDOPS_WAIVER", "FRAUDOPS_SIGNING__WAIVERS")),
        *(("inference", name) for name in ("FRAUDOPS_POD", "fraudops_pod", "FRAUDOPS_STATE")),
        ("inference.shipper", "FRAUDOPS_SPOOL_VOLUME"),
        # The strict profile looks at the values.
        ("inference", "fraudops_client_auth__mode"),
    }
    for path, name in sorted(cases):
        own = json.dumps(nested(f"{path}.extraEnv", [{"name": name, "value": "mine"}]))
        assert f"{path}.extraEnv: the chart sets {name} for" in refusal(values=own)


SECRETS = (
    *("FRAUDOPS_ADMIN_TOKEN", "FRAUDOPS_API_KEY", "FRAUDOPS_AUDIT__KEY"),
    "fraudops_admin_token",
)
URLS = ("DATABASE_URL", "DATABASE_ADMIN_URL", "MLFLOW_BACKEND_STORE_URI")


@pytest.mark.parametrize("path", ["inference", "inference.shipper", "mlflow", "jobs.migrate.pod"])
@pytest.mark.parametrize("name", [*SECRETS, *URLS])
def test_a_secret_is_no_literal_value_of_a_variable(path: str, name: str) -> None:
    literal = nested(f"{path}.extraEnv", [{"name": name, "value": "hunter2"}])
    message = refusal(values=json.dumps(literal))
    assert f"{path}.extraEnv: {name} is a secret" in message
    assert "valueFrom" in message
    assert "hunter2" not in message
    reference = {"secretKeyRef": {"name": "own", "key": "a"}}
    render(
        Variant(
            values=json.dumps(nested(f"{path}.extraEnv", [{"name": name, "valueFrom": reference}]))
        )
    )


def test_the_path_of_a_secret_is_a_literal_value() -> None:
    def own(name: str) -> str:
        return json.dumps(nested("mlflow.extraEnv", [{"name": name, "value": "file:/own/url"}]))

    for name in URLS:
        render(Variant(values=own(name)))
    assert "is a secret" in refusal(values=own("FRAUDOPS_ADMIN_TOKEN"))


def test_the_values_of_one_job_win_over_those_of_all() -> None:
    manifests = render(
        values(
            jobs={
                "extraEnv": [{"name": "A", "value": "all"}, {"name": "B", "value": "all"}],
                "nodeSelector": {"a": "all", "b": "all"},
                "priorityClassName": "all",
                "train": {
                    "pod": {
                        "extraEnv": [{"name": "A", "value": "train"}],
                        "nodeSelector": {"a": "train"},
                        "priorityClassName": "train",
                    }
                },
            }
        )
    )
    spec = named(manifests, "CronJob", "fraudops-train")["spec"]["jobTemplate"]["spec"]["template"]
    env = {entry["name"]: entry.get("value") for entry in spec["spec"]["containers"][0]["env"]}
    assert (env["A"], env["B"]) == ("train", "all")
    assert spec["spec"]["nodeSelector"] == {"a": "train", "b": "all"}
    assert spec["spec"]["priorityClassName"] == "train"


def test_openshift_gives_every_pod_its_user_and_group() -> None:
    for owner, template in pods(render(values(openshift={"enabled": True}))):
        security = template["spec"]["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & security.keys(), owner
        assert security["runAsNonRoot"] is True, owner


def test_null_removes_one_field_of_a_security_context() -> None:
    manifests = render(values(mlflow={"podSecurityContext": {"runAsUser": None}}))
    spec = named(manifests, "Deployment", "fraudops-mlflow")["spec"]["template"]["spec"]
    assert spec["securityContext"].keys() >= {"runAsGroup", "fsGroup", "runAsNonRoot"}
    assert "runAsUser" not in spec["securityContext"]


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_every_program_of_the_product_trusts_the_bundle_of_certificates(kind: str) -> None:
    path = "/etc/ssl/fraudops/ca.crt"
    trusting = {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "PGSSLROOTCERT"}
    for label, spec, container in containers(render(values(caBundle={kind: "company"}))):
        having = {entry["name"] for entry in container.get("env", []) if entry.get("value") == path}
        mounted = [m for m in container["volumeMounts"] if path.startswith(m["mountPath"] + "/")]
        if container["name"] == "postgresql":
            assert (having, mounted) == (set(), [])
            continue
        assert having == trusting, label
        volume = next(v for v in spec["volumes"] if v["name"] == mounted[0]["name"])
        assert "company" in json.dumps(volume[kind]), label


def test_a_name_that_is_taken_is_refused() -> None:
    volume = json.dumps({"mlflow": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}})
    assert 'mlflow.extraVolumes: the name "tmp" is already taken' in refusal(values=volume)
    for path in ("/tmp", "/tmp/", "//tmp/./"):
        mount = json.dumps({"mlflow": {"extraVolumeMounts": [{"name": "a", "mountPath": path}]}})
        taken = f'mlflow.extraVolumeMounts: the mountPath "{path}" is already taken'
        assert taken in refusal(values=mount)
    sidecar = json.dumps({"inference": {"extraContainers": [{"name": "shipper", "image": "a"}]}})
    assert 'inference.extraContainers: the name "shipper"' in refusal(values=sidecar)


def test_labels_and_annotations_for_all_objects() -> None:
    own = {"example.com/team": "fraud"}
    manifests = render(values(commonLabels=own, commonAnnotations=own))
    for manifest in manifests:
        assert manifest["metadata"]["labels"].items() >= own.items()
        assert manifest["metadata"]["annotations"].items() >= own.items()
    for owner, template in pods(manifests):
        assert template["metadata"]["labels"].items() >= own.items(), owner
    selectors = [m["spec"]["selector"] for m in kinds(manifests, "Deployment", "StatefulSet")]
    assert "example.com/team" not in json.dumps(selectors)


def test_the_schemas_refuse_a_broken_extension() -> None:
    """The check of this file must not pass whatever a template prints."""
    manifests = render(variant(EXTENSIONS[0]))
    pod = named(manifests, "Deployment", "fraudops-mlflow")
    pod["spec"]["template"]["spec"]["tolerations"] = [{"operator": 1}]
    with pytest.raises(jsonschema.ValidationError):
        check(KUBERNETES[0], json.dumps(pod))
