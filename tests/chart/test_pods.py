"""Rules for every container in every variant of the installation."""

import importlib.util
import re
from collections import Counter

from tests.chart.rendering import (
    EVERYTHING,
    Manifest,
    Variant,
    containers,
    environment,
    kinds,
    named,
    pod_template,
    pods,
    render,
    title,
)

LONG_RUNNING = {"Deployment", "StatefulSet"}
# The volume types that Pod Security `restricted` allows.
VOLUMES = {
    "configMap",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "downwardAPI",
}
# The containers that may call the Kubernetes API, with their ServiceAccount.
ACCOUNTS = {
    "inference": "fraudops-inference",
    "drift": "fraudops-jobs",
    "score": "fraudops-jobs",
    "promote": "fraudops-promotion",
    "reconcile": "fraudops-reconcile",
    "wait": "fraudops-promotion",
    "setup": "fraudops-setup",
    "record": "fraudops-backup",
}
SECRET_READERS = {
    "FRAUDOPS_ADMIN_TOKEN": {
        "inference",
        "shipper",
        "promote",
        "wait",
    },
    "DATABASE_URL": {
        "shipper",
        "promote",
        "reconcile",
        "wait",
        "drift",
        "labels",
        "retention",
        "migrate",
        "test",
        "record",
    },
    "MLFLOW_BACKEND_STORE_URI": {"mlflow", "wait-for-database", "migrate", "record"},
    "DATABASE_ADMIN_URL": {"migrate"},
    "POSTGRES_PASSWORD": {"postgresql"},
}


def test_every_pod_keeps_to_pod_security_restricted(manifests: list[Manifest]) -> None:
    for owner, template in pods(manifests):
        spec = template["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, owner
        assert security["runAsUser"] >= 999, owner
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), owner
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES, owner
    for label, _, container in containers(manifests):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, label
        assert security["capabilities"] == {"drop": ["ALL"]}, label
        assert security["readOnlyRootFilesystem"] is True, label
        assert not any("hostPort" in port for port in container.get("ports", [])), label


def test_no_pod_gets_the_services_of_its_namespace_as_variables(manifests: list[Manifest]) -> None:
    assert [
        owner
        for owner, template in pods(manifests)
        if template["spec"]["enableServiceLinks"] is not False
    ] == []


def test_every_container_requests_cpu_and_memory_and_limits_memory(
    manifests: list[Manifest],
) -> None:
    for label, _, container in containers(manifests):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), label
        assert "memory" in container["resources"]["limits"], label


def test_every_empty_directory_has_a_limit(manifests: list[Manifest]) -> None:
    for owner, template in pods(manifests):
        unlimited = [
            volume["name"]
            for volume in template["spec"].get("volumes", [])
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit")
        ]
        assert unlimited == [], owner


def test_every_image_has_a_tag_that_is_not_latest(manifests: list[Manifest]) -> None:
    for label, _, container in containers(manifests):
        assert re.search(
            r"(:(?!latest)[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", container["image"]
        ), label
        assert container["imagePullPolicy"] == "IfNotPresent", label


def test_one_registry_serves_every_image() -> None:
    assert {
        container["image"].rpartition("/")[0] for _, _, container in containers(render(EVERYTHING))
    } == {"registry.example.com/fraud"}


def test_the_reason_of_a_failure_is_in_the_status_of_the_pod(manifests: list[Manifest]) -> None:
    assert [
        label
        for label, _, container in containers(manifests)
        if container["terminationMessagePolicy"] != "FallbackToLogsOnError"
    ] == []


def test_no_container_has_a_variable_twice(manifests: list[Manifest]) -> None:
    for label, _, container in containers(manifests):
        names = [entry["name"] for entry in container.get("env", [])]
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                names += named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
        assert [name for name, count in Counter(names).items() if count > 1] == [], label


def test_every_command_is_a_module_of_the_product(manifests: list[Manifest]) -> None:
    for label, _, container in containers(manifests):
        if container["name"] == "postgresql":
            assert "command" not in container
            continue
        # PostgreSQL's own image, with a script of the container before it.
        if container["name"] == "dump":
            continue
        python, flag, module = container["command"][:3]
        assert (python, flag) == ("python", "-m"), label
        assert importlib.util.find_spec(module) is not None, f"{label}: there is no {module}"


def test_every_long_running_container_has_three_probes(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, *LONG_RUNNING):
        # No Service has its pods.
        if manifest["metadata"]["name"] == "fraudops-reconcile":
            continue
        for container in pod_template(manifest)["spec"]["containers"]:  # type: ignore[index]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), title(
                manifest
            )
            ready, alive = container["readinessProbe"], container["livenessProbe"]
            assert (
                ready["periodSeconds"] * ready["failureThreshold"]
                < alive["periodSeconds"] * alive["failureThreshold"]
            ), "the pod must leave the Service long before a restart"


def test_readiness_and_liveness_of_the_service_use_different_paths() -> None:
    deployment = named(render(), "Deployment", "fraudops-inference")
    service = deployment["spec"]["template"]["spec"]["containers"][0]
    assert service["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert service["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert "startupProbe" not in deployment["spec"]["template"]["spec"]["initContainers"][0], (
        "the service would wait for the shipper"
    )


def test_the_readiness_probe_of_mlflow_calls_its_api_by_an_allowed_host() -> None:
    manifests = render()
    probe = named(manifests, "Deployment", "fraudops-mlflow")["spec"]["template"]["spec"][
        "containers"
    ][0]["readinessProbe"]["httpGet"]
    host = {header["name"]: header["value"] for header in probe["httpHeaders"]}["Host"]
    assert probe["path"].startswith("/api/")
    assert host in named(manifests, "ConfigMap", "fraudops-mlflow")["data"][
        "MLFLOW_SERVER_ALLOWED_HOSTS"
    ].split(",")
    assert (
        f"http://{host}"
        == named(manifests, "ConfigMap", "fraudops-inference")["data"]["MLFLOW_TRACKING_URI"]
    )


def test_a_pod_has_time_for_its_drain_its_requests_and_its_shipper() -> None:
    for settings in ((), ("inference.preStopSeconds=30", "inference.gracefulTimeoutSeconds=60")):
        spec = named(render(Variant(settings=settings)), "Deployment", "fraudops-inference")[
            "spec"
        ]["template"]["spec"]
        service = spec["containers"][0]
        drain = float(service["lifecycle"]["preStop"]["exec"]["command"][-1])
        graceful = float(
            environment(render(Variant(settings=settings)), service)[
                "FRAUDOPS_GRACEFUL_TIMEOUT_SECONDS"
            ]
        )
        assert spec["terminationGracePeriodSeconds"] >= drain + graceful + 10


def test_the_shipper_is_a_native_sidecar_on_the_services_spool(manifests: list[Manifest]) -> None:
    spec = named(manifests, "Deployment", "fraudops-inference")["spec"]["template"]["spec"]
    shipper, service = spec["initContainers"][0], spec["containers"][0]
    assert shipper["restartPolicy"] == "Always"
    state = environment(manifests, service)["FRAUDOPS_STATE"]
    assert state == environment(manifests, shipper)["FRAUDOPS_STATE"]
    for container in (shipper, service):
        assert {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}[
            state
        ] == "state"


def test_only_containers_that_call_the_kubernetes_api_have_a_token(
    manifests: list[Manifest],
) -> None:
    for owner, template in pods(manifests):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, owner
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            holds = any(
                "serviceaccount" in mount["mountPath"]
                for mount in container.get("volumeMounts", [])
            )
            assert holds == (container["name"] in ACCOUNTS), f"{owner}, {container['name']}"
            if holds:
                assert spec["serviceAccountName"] == ACCOUNTS[container["name"]], owner
                assert template["metadata"]["labels"]["fraudops.io/access-api"] == "true", owner


def test_only_containers_that_need_a_secret_read_it(manifests: list[Manifest]) -> None:
    for label, _, container in containers(manifests):
        for variable, readers in SECRET_READERS.items():
            has = variable in environment(manifests, container)
            assert has <= (container["name"] in readers), f"{label} reads {variable}"
            assert (
                has or container["name"] not in readers or variable == "MLFLOW_BACKEND_STORE_URI"
            ), f"{label} lacks {variable}"


def test_no_config_map_holds_a_secret(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, "ConfigMap"):
        assert not re.search(
            r"(?i)password|postgresql://|AWS_SECRET|FRAUDOPS_ADMIN_TOKEN", str(manifest["data"])
        ), title(manifest)


def test_the_chart_sets_no_replicas_with_an_autoscaler() -> None:
    def replicas(*settings: str) -> object:
        spec = named(render(Variant(settings=settings)), "Deployment", "fraudops-inference")["spec"]
        return spec.get("replicas", "absent")

    assert replicas() == 2
    assert replicas("inference.replicas=0") == 0
    assert replicas("inference.replicas=null") == "absent"
    assert replicas("inference.autoscaling.enabled=true") == "absent"


def test_two_mlflow_pods_never_share_the_artifacts(manifests: list[Manifest]) -> None:
    for manifest in kinds(manifests, "Deployment"):
        if manifest["metadata"]["name"] == "fraudops-mlflow":
            assert (manifest["spec"]["replicas"], manifest["spec"]["strategy"]) == (
                1,
                {"type": "Recreate"},
            )
