"""`python3 k8s/cluster.py up | images | down`: the doors `make kind-up`, `make images` and `make
kind-down`.

Plain standard library, so that it runs before anything is installed. Says what it does as it
goes; every wait has a deadline and, when that passes, prints what it waited for with the events
and logs that tell why. KIND_CLUSTER, KIND_IMAGE, KIND_CONFIG and KIND_URL choose the cluster and
where its ingress answers, FRAUDOPS_DATA the data.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
KIT = ROOT.parent / "shared" / "kind"
CLUSTER = os.environ.get("KIND_CLUSTER", "fraudops")
NODE_IMAGE = os.environ.get("KIND_IMAGE", "kindest/node:v1.34.4")
CONFIG = os.environ.get("KIND_CONFIG", str(ROOT / "kind-config.yaml"))
DATA = os.environ.get("FRAUDOPS_DATA", "")
VERSION = next(
    line.split()[1]
    for line in (ROOT / "charts/fraudops/Chart.yaml").read_text().splitlines()
    if line.startswith("appVersion:")
)
# Each image with its folder and its place in the values.
IMAGES = {
    "fraudops-serving": ("services/inference", "inference"),
    "fraudops-mlflow": ("services/mlflow", "mlflow"),
    "fraudops-jobs": ("jobs", "jobs"),
}
POSTGRES = "postgres:17"
NAMESPACE = RELEASE = "fraudops"
URL = os.environ.get("KIND_URL", "http://localhost:8080")
TRAEFIK = (
    "--repo",
    "https://traefik.github.io/charts",
    "--set",
    "ports.web.hostPort=80",
    "--set",
    "ports.websecure.hostPort=443",
    "--set",
    "service.enabled=false",
)
PAUSE_SECONDS = 2.0
STARTED = time.monotonic()


def say(text: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - STARTED:5.0f} s] {text}\n")


def fail(text: str) -> NoReturn:
    say(text)
    sys.exit(1)


def ask(*command: str) -> str:
    """What the command prints; "" when it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run(*command: str) -> None:
    """Ends the program, with what the command said, when it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:])
        fail(f"failed: {' '.join(command)}")


def kubectl(*arguments: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return ("kubectl", "--context", f"kind-{CLUSTER}", "--namespace", namespace, *arguments)


def helm(*arguments: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return ("helm", "--kube-context", f"kind-{CLUSTER}", "--namespace", namespace, *arguments)


def wait(what: str, check: Callable[[], tuple[bool, str]], seconds: float) -> None:
    """Until `check` says so; its notes are shown as they change.

    Diagnoses and ends the program when the deadline passes.
    """
    say(f"waiting for {what} (at most {seconds:g} s)")
    deadline, said = time.monotonic() + seconds, ""
    while True:
        done, note = check()
        if note and note != said:
            say(f"  {note}")
            said = note
        if done:
            return
        if time.monotonic() > deadline:
            diagnose()
            fail(f"waited {seconds:g} s for {what} in vain: see the events and logs above")
        time.sleep(PAUSE_SECONDS)


def diagnose() -> None:
    """Pods, events, and the last lines of every container that is not as it should be."""
    for command in (
        kubectl("get", "pods", "-o", "wide"),
        kubectl("get", "events", "--sort-by=.lastTimestamp"),
    ):
        sys.stderr.write("\n".join(ask(*command).splitlines()[-25:]) + "\n")
    for pod in json.loads(ask(*kubectl("get", "pods", "-o", "json")) or '{"items": []}')["items"]:
        statuses = [
            *pod["status"].get("initContainerStatuses", []),
            *pod["status"].get("containerStatuses", []),
        ]
        for status in statuses:
            ended = status["state"].get("terminated", {})
            if not status["ready"] and ended.get("exitCode") != 0:
                name = pod["metadata"]["name"]
                sys.stderr.write(f"--- {name}, {status['name']}: {json.dumps(status['state'])}\n")
                sys.stderr.write(
                    ask(*kubectl("logs", name, "-c", status["name"], "--tail=15")) + "\n"
                )


def job_ended(component: str) -> Callable[[], tuple[bool, str]]:
    """Done once a Job of the component has; its last line of log is the note.

    A Job that has failed for good ends the program.
    """

    def check() -> tuple[bool, str]:
        selector = f"app.kubernetes.io/component={component}"
        jobs = json.loads(
            ask(*kubectl("get", "jobs", "-l", selector, "-o", "json")) or '{"items": []}'
        )["items"]
        conditions = {
            condition["type"]
            for job in jobs
            for condition in job["status"].get("conditions", [])
            if condition["status"] == "True"
        }
        if "Failed" in conditions and "Complete" not in conditions:
            diagnose()
            fail(f"the Job {component} has failed: see its log above")
        lines = ask(*kubectl("logs", "-l", selector, "--tail=1")).splitlines()
        return "Complete" in conditions, lines[-1].strip() if lines else ""

    return check


def ready(workload: str) -> Callable[[], tuple[bool, str]]:
    def check() -> tuple[bool, str]:
        found = json.loads(ask(*kubectl("get", workload, "-o", "json")) or "{}")
        status, wanted = found.get("status", {}), found.get("spec", {}).get("replicas", 1)
        current = (
            status.get("observedGeneration", 0) >= found.get("metadata", {}).get("generation", 1)
            and status.get("updatedReplicas", 0) == wanted
        )
        return current and status.get(
            "readyReplicas", 0
        ) == wanted, f"{status.get('readyReplicas', 0)} of {wanted} ready"

    return check


def call(path: str, body: bytes | None = None) -> Any:
    """The JSON answer through the ingress. Raises OSError."""
    request = urllib.request.Request(
        f"{URL}{path}", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def answers() -> tuple[bool, str]:
    try:
        info = call("/model_info")
    except (OSError, ValueError) as error:
        return False, f"{URL}/model_info: {error}"
    return True, f"version {info['model']['version']} serves"


def need_tools() -> None:
    if not ask("docker", "info", "--format", "{{.ServerVersion}}"):
        if not (KIT / "up").exists():
            fail("no Docker engine answers: start one, and install kind, kubectl and helm")
        say("no Docker engine answers: starting the one of ../shared/kind")
        subprocess.run([str(KIT / "up")], check=True)
    missing = [name for name in ("docker", "kind", "kubectl", "helm") if shutil.which(name) is None]
    if missing:
        fail(f"not on PATH: {', '.join(missing)}")


def images() -> None:
    need_tools()
    base = os.environ.get("BASE_IMAGE")
    for name, (folder, _) in IMAGES.items():
        say(f"building {name}:{VERSION}")
        arguments = ("--build-arg", f"BASE={base}") if base else ()
        run(
            "docker",
            "build",
            "--quiet",
            *arguments,
            "--file",
            str(ROOT / folder / "Dockerfile"),
            "--tag",
            f"{name}:{VERSION}",
            str(ROOT),
        )
        size = int(ask("docker", "image", "inspect", f"{name}:{VERSION}", "--format", "{{.Size}}"))
        run("docker", "tag", f"{name}:{VERSION}", f"{name}:{tag(name)}")
        say(f"  {size / 1e6:,.0f} MB")


def tag(name: str) -> str:
    """The version with the image's own id: what was built anew replaces what runs."""
    found = ask("docker", "image", "inspect", f"{name}:{VERSION}", "--format", "{{.Id}}")
    return f"{VERSION}-{found.removeprefix('sha256:')[:12]}"


def cluster() -> None:
    if CLUSTER in ask("kind", "get", "clusters").split():
        say(f"the cluster {CLUSTER} is there")
    else:
        say(f"making the cluster {CLUSTER} from {NODE_IMAGE}")
        run(
            "kind",
            "create",
            "cluster",
            "--name",
            CLUSTER,
            "--image",
            NODE_IMAGE,
            "--config",
            CONFIG,
            "--wait",
            "180s",
        )
    for image in (*(f"{name}:{tag(name)}" for name in IMAGES), POSTGRES):
        if not ask("docker", "image", "inspect", image, "--format", "{{.Id}}"):
            say(f"  {image} is not here: the cluster pulls it")
            continue
        say(f"loading {image}")
        run("kind", "load", "docker-image", image, "--name", CLUSTER)


def ingress_controller() -> None:
    if ask(*kubectl("get", "ingressclass", "-o", "name")):
        return
    say("adding an ingress controller (Traefik)")
    if (KIT / "addons" / "up").exists():
        run(str(KIT / "addons" / "up"), "--name", CLUSTER, "ingress")
    else:
        run(
            *helm(
                "upgrade",
                "--install",
                "traefik",
                "traefik",
                "--create-namespace",
                "--wait",
                "--timeout",
                "5m",
                *TRAEFIK,
                namespace="traefik",
            )
        )


def install() -> None:
    """With data of one's own nothing is bootstrapped: the data is pushed first, and the pipeline
    trains on it.
    """
    run(*kubectl("apply", "-k", str(ROOT / "k8s" / "namespace")))
    files = ("charts/fraudops/values-quickstart.yaml", "k8s/values/kind.yaml")
    values = [argument for file in files for argument in ("--values", str(ROOT / file))]
    for name, (_, place) in IMAGES.items():
        values += ["--set-string", f"{place}.image.tag={tag(name)}"]
    if DATA:
        values += [
            "--set",
            f"data.source=volume,data.file={Path(DATA).name},bootstrap.enabled=false",
        ]
    say("helm upgrade --install fraudops")
    run(*helm("upgrade", "--install", RELEASE, str(ROOT / "charts" / "fraudops"), *values))


def first_model() -> None:
    for component, seconds in (("setup", 240), ("migrate", 360)):
        wait(f"the Job {component}", job_ended(component), seconds)
    wait("MLflow", ready("deployment/fraudops-mlflow"), 360)
    if not DATA:
        wait("the first model: trained, validated, promoted", job_ended("bootstrap"), 900)
        return
    say(f"pushing {DATA} to the data volume")
    environment = {
        **os.environ,
        "FRAUDOPS_CLUSTER__RELEASE": RELEASE,
        "FRAUDOPS_CLUSTER__NAMESPACE": NAMESPACE,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as kubeconfig:
        kubeconfig.write(ask("kind", "get", "kubeconfig", "--name", CLUSTER))
        kubeconfig.flush()
        push = [str(ROOT / ".venv/bin/fraudops"), "data", "push", DATA, "--on-cluster"]
        subprocess.run(push, env=environment | {"KUBECONFIG": kubeconfig.name}, check=True)
    run(
        *kubectl(
            "create", "job", f"first-model-{int(time.time())}", "--from=cronjob/fraudops-pipeline"
        )
    )
    wait("the first model: trained, validated, promoted", job_ended("pipeline"), 3600)


def prove() -> None:
    """A prediction through the ingress, and its audit row."""
    wait("the pods of the service", ready("deployment/fraudops-inference"), 240)
    wait(f"the ingress at {URL}", answers, 120)
    answer = call("/predict", (ROOT / "fraudops/datasets/sample/transaction.json").read_bytes())
    say(f"a prediction: {json.dumps(answer)}")
    question = f"SELECT id, timestamp, model_version, fraud_probability, pod FROM predictions WHERE id = '{answer['prediction_id']}'"  # noqa: S608 - our own id
    query = kubectl(
        "exec",
        "statefulset/fraudops-postgresql",
        "--",
        "psql",
        "-U",
        "postgres",
        "-d",
        "fraudops",
        "-tAc",
        question,
    )

    def row() -> tuple[bool, str]:
        found = ask(*query)
        return bool(found), found

    wait("its audit row", row, 60)


def up() -> None:
    images()
    cluster()
    ingress_controller()
    install()
    first_model()
    prove()
    say(
        f"ready: {URL}/docs, {URL}/model_info; the registry: kubectl -n {NAMESPACE} port-forward service/fraudops-mlflow 5000"
    )


def down() -> None:
    run("kind", "delete", "cluster", "--name", CLUSTER)
    say(f"the cluster {CLUSTER} is gone")


def main() -> None:
    doors = {"up": up, "images": images, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in doors:
        sys.stderr.write(f"usage: python3 k8s/cluster.py {' | '.join(doors)}\n")
        sys.exit(64)
    doors[sys.argv[1]]()


if __name__ == "__main__":
    main()
