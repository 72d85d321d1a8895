"""The notes name each value for which Pod Security `restricted` would refuse a pod."""

import pytest

from tests.chart.rendering import notes

WORDS = "These values weaken the pods"


def weakened(*settings: str, files: tuple[str, ...] = ()) -> list[str]:
    """Return the values that the notes name."""
    lines = [line for line in notes(*settings, files=files).splitlines() if WORDS in line]
    return [] if not lines else lines[0].rpartition(": ")[2].rstrip(".").split(", ")


@pytest.mark.parametrize(
    "files",
    [
        (),
        ("charts/fraudops/ci/everything-values.yaml",),
        ("k8s/values/openshift.yaml",),
        ("charts/fraudops/values-quickstart.yaml", "k8s/values/kind.yaml"),
    ],
)
def test_the_values_of_the_chart_weaken_nothing(files: tuple[str, ...]) -> None:
    assert weakened(files=files) == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("jobs.containerSecurityContext.privileged=true", ""),
        ("inference.containerSecurityContext.allowPrivilegeEscalation=true", ""),
        ("inference.shipper.containerSecurityContext.allowPrivilegeEscalation=null", ""),
        ("mlflow.podSecurityContext.runAsNonRoot=false", ""),
        ("mlflow.podSecurityContext.runAsNonRoot=null", ""),
        ("mlflow.podSecurityContext.seccompProfile=null", ""),
        ("postgresql.podSecurityContext.runAsUser=0", ""),
        ("jobs.train.pod.containerSecurityContext.runAsUser=0", ""),
        ("jobs.train.pod.podSecurityContext.seccompProfile.type=Unconfined", "seccompProfile"),
        ("bootstrap.pod.containerSecurityContext.capabilities.add={SYS_ADMIN}", "capabilities.add"),
        ("jobs.containerSecurityContext.capabilities.drop={CHOWN}", "capabilities.drop"),
        ("jobs.containerSecurityContext.capabilities.drop=null", "capabilities.drop"),
        ("mlflow.containerSecurityContext.procMount=Unmasked", ""),
        ("jobs.podSecurityContext.seLinuxOptions.type=spc_t", "seLinuxOptions"),
        ("inference.shipper.containerSecurityContext.seLinuxOptions.user=u", "seLinuxOptions"),
        ("postgresql.podSecurityContext.seLinuxOptions.role=r", "seLinuxOptions"),
    ],
)
def test_the_notes_name_a_value_that_weakens_the_pods(setting: str, named: str) -> None:
    path = setting.partition("=")[0]
    expected = path.partition("SecurityContext.")[0] + "SecurityContext." + named if named else path
    assert weakened(setting) == [expected]


@pytest.mark.parametrize(
    "setting",
    [
        "jobs.containerSecurityContext.capabilities.add={NET_BIND_SERVICE}",
        "jobs.train.pod.containerSecurityContext.readOnlyRootFilesystem=false",
        "jobs.train.pod.podSecurityContext.runAsUser=1234",
        "mlflow.containerSecurityContext.procMount=Default",
        "jobs.podSecurityContext.seLinuxOptions.type=container_t",
        "postgresql.podSecurityContext.seLinuxOptions.level=s0:c1",
    ],
)
def test_the_notes_name_nothing_that_restricted_accepts(setting: str) -> None:
    assert weakened(setting) == []


def test_the_notes_name_volumes_and_containers_of_the_site() -> None:
    volumes = ("mlflow.extraVolumes[0].name=logs", "mlflow.extraVolumes[0].hostPath.path=/var/log")
    assert weakened(*volumes) == ["mlflow.extraVolumes.logs (hostPath)"]
    sidecar = "inference.extraContainers[0]"
    bare = (f"{sidecar}.name=proxy", f"{sidecar}.image=p:1")
    keys = ("allowPrivilegeEscalation", "capabilities.drop")
    assert weakened(*bare) == [f"inference.extraContainers.proxy.{key}" for key in keys]
    hardened = (
        f"{sidecar}.securityContext.allowPrivilegeEscalation=false",
        f"{sidecar}.securityContext.capabilities.drop={{ALL}}",
    )
    assert weakened(*bare, *hardened) == []


@pytest.mark.parametrize(("name", "safe"), [("net.ipv4.tcp_syncookies", True), ("a.b", False)])
def test_the_notes_name_unsafe_kernel_parameters(name: str, safe: bool) -> None:
    path = "inference.podSecurityContext.sysctls"
    assert weakened(f"{path}[0].name={name}", f"{path}[0].value=1") == ([] if safe else [path])


@pytest.mark.parametrize("kind", ["extraContainers", "extraInitContainers"])
def test_the_notes_name_a_port_of_the_node(kind: str) -> None:
    sidecar = f"inference.{kind}[0]"
    hardened = (
        f"{sidecar}.name=proxy",
        f"{sidecar}.image=p:1",
        f"{sidecar}.securityContext.allowPrivilegeEscalation=false",
        f"{sidecar}.securityContext.capabilities.drop={{ALL}}",
        f"{sidecar}.ports[0].containerPort=80",
    )
    assert weakened(*hardened) == []
    port = f"{sidecar}.ports[0].hostPort=80"
    assert weakened(*hardened, port) == [f"inference.{kind}.proxy.hostPort"]
