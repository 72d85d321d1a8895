"""A kind cluster with the whole product: `make kind-up`, `make images` and `make kind-down`.

Standard library only, so that it runs before anything is installed. Docker, kind, kubectl and helm
must be on PATH. Every wait has a deadline; when it passes, the events and logs are printed.

| variable       | meaning                                                              |
|----------------|----------------------------------------------------------------------|
| KIND_CLUSTER   | the cluster's name                                                   |
| KIND_IMAGE     | the node image; empty means the default of the installed kind        |
| KIND_CONFIG    | the cluster's configuration file                                     |
| KIND_URL       | where the ingress answers                                            |
| KIND_ADDONS    | what the cluster gets besides an ingress: metrics, prometheus        |
| KIND_KIT       | a folder with `up` and `addons/up`, for machines that pull no images |
| BASE_IMAGE     | the base of the three images                                         |
| FRAUDOPS_DATA  | the file that the first model is trained on                          |
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import addons
from process import (
    CLUSTER,
    NAMESPACE,
    FailedError,
    ask,
    fail,
    helm,
    job_ended,
    kubectl,
    ready,
    run,
    say,
    together,
    wait,
)

ROOT = Path(__file__).parents[1]
NODE_IMAGE = os.environ.get("KIND_IMAGE", "kindest/node:v1.34.4")
CONFIG = os.environ.get("KIND_CONFIG", str(ROOT / "kind-config.yaml"))
ADDONS = os.environ.get("KIND_ADDONS", "").split()
DATA = os.environ.get("FRAUDOPS_DATA", "")
URL = os.environ.get("KIND_URL", "http://localhost:8080")
RELEASE = "fraudops"
VERSION = next(
    line.split()[1]
    for line in (ROOT / "charts/fraudops/Chart.yaml").read_text().splitlines()
    if line.startswith("appVersion:")
)
# Each image with its folder and its key in the chart's values.
IMAGES = {
    "fraudops-serving": ("services/inference", "inference"),
    "fraudops-mlflow": ("services/mlflow", "mlflow"),
    "fraudops-jobs": ("jobs", "jobs"),
}
POSTGRES = "postgres:17"
# Only the pods of this image may tolerate the taint of a node.
TOLERANT = "fraudops-serving"
TOOLS = ("docker", "kind", "kubectl", "helm")


def need_tools() -> None:
    """Check that the tools exist and an engine answers; KIND_KIT may prepare them first."""
    if addons.KIT and lacking():
        say(f"preparing Docker, kind, kubectl and helm with {addons.KIT}/up")
        if subprocess.run([str(Path(addons.KIT) / "up")], check=False).returncode != 0:
            fail(f"{addons.KIT}/up failed: see its output above")
    if lack := lacking():
        fail(lack)


def lacking() -> str:
    """What the user must do before a cluster can start; "" when nothing is missing."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        return f"not on PATH: {', '.join(missing)}; install them"
    if not ask("docker", "info", "--format", "{{.ServerVersion}}"):
        return "no Docker engine answers; start one"
    return ""


def build(name: str) -> None:
    say(f"building {name}:{VERSION}")
    dockerfile = str(ROOT / IMAGES[name][0] / "Dockerfile")
    base = os.environ.get("BASE_IMAGE")
    arguments = ("--build-arg", f"BASE={base}") if base else ()
    target = ("--file", dockerfile, "--tag", f"{name}:{VERSION}", str(ROOT))
    run("docker", "build", "--quiet", *arguments, *target)
    run("docker", "tag", f"{name}:{VERSION}", f"{name}:{tag(name)}")
    size = int(ask("docker", "image", "inspect", f"{name}:{VERSION}", "--format", "{{.Size}}"))
    say(f"  {name}: {size / 1e6:,.0f} MB")


def images() -> None:
    """Build the three images in parallel."""
    need_tools()
    together(*(partial(build, name) for name in IMAGES))


def tag(name: str) -> str:
    """The version and the image's id: a pod restarts exactly when its image has changed."""
    identity = ask("docker", "image", "inspect", f"{name}:{VERSION}", "--format", "{{.Id}}")
    return f"{VERSION}-{identity.removeprefix('sha256:')[:12]}"


def create() -> None:
    """Create the cluster unless it exists."""
    if CLUSTER in ask("kind", "get", "clusters").split():
        say(f"the cluster {CLUSTER} exists")
        return
    say(f"creating the cluster {CLUSTER} from {NODE_IMAGE or 'the node image of this kind'}")
    shape = ["--name", CLUSTER, "--config", CONFIG]
    shape += ["--image", NODE_IMAGE] if NODE_IMAGE else []
    run("kind", "create", "cluster", *shape, "--wait", "180s")


def load(image: str) -> None:
    if not ask("docker", "image", "inspect", image):
        say(f"  {image} is not on this machine: the cluster pulls it")
        return
    say(f"loading {image}")
    nodes = () if image.startswith(TOLERANT) else ("--nodes", ",".join(nodes_without_taint()))
    run("kind", "load", "docker-image", image, "--name", CLUSTER, *nodes)


def nodes_without_taint() -> list[str]:
    """Return the nodes that run pods without tolerations.

    A taint of Kubernetes itself, such as "not ready" after the start, does not count.
    """

    def ordinary(node: dict[str, Any]) -> bool:
        taints = node["spec"].get("taints", [])
        return all(taint["key"].startswith("node.kubernetes.io/") for taint in taints)

    nodes = json.loads(ask(*kubectl("get", "nodes", "-o", "json")))["items"]
    return [node["metadata"]["name"] for node in nodes if ordinary(node)]


def provide(name: str, created: Future[None]) -> None:
    """Build an image, and load it once the cluster exists."""
    build(name)
    after(created, lambda: load(f"{name}:{tag(name)}"))


def after(created: Future[None], step: Callable[[], None]) -> None:
    """Take the step once the cluster exists."""
    created.result()
    step()


def cluster_with_images() -> None:
    """Create and equip the cluster while the images build; raises the first failure."""
    others = (partial(load, POSTGRES), partial(addons.need, "ingress", *ADDONS))
    with ThreadPoolExecutor(len(IMAGES) + len(others) + 1) as pool:
        created = pool.submit(create)
        steps = [pool.submit(provide, name, created) for name in IMAGES]
        steps += [pool.submit(after, created, step) for step in others]
    for step in (created, *steps):
        step.result()


def install() -> None:
    """Install the chart.

    With FRAUDOPS_DATA the bootstrap is off: `first_model` pushes the data before it trains.
    """
    run(*kubectl("apply", "-k", str(ROOT / "k8s" / "namespace")))
    files = ("charts/fraudops/values-quickstart.yaml", "k8s/values/kind.yaml")
    values = [argument for file in files for argument in ("--values", str(ROOT / file))]
    for name, (_, place) in IMAGES.items():
        values += ["--set-string", f"{place}.image.tag={tag(name)}"]
    if DATA:
        own = f"data.source=volume,data.file={Path(DATA).name},bootstrap.enabled=false"
        values += ["--set", own]
    say("helm upgrade --install fraudops")
    run(*helm("upgrade", "--install", RELEASE, str(ROOT / "charts" / "fraudops"), *values))


def first_model() -> None:
    for component, seconds in (("setup", 240), ("migrate", 360)):
        wait(f"the Job {component}", job_ended(component), seconds)
    wait("MLflow", ready("deployment/fraudops-mlflow"), 360)
    if not DATA:
        wait("the first model: trained, validated, promoted", job_ended("bootstrap"), 900)
        return
    push_data()
    job = f"first-model-{int(time.time())}"
    run(*kubectl("create", "job", job, "--from=cronjob/fraudops-pipeline"))
    wait("the first model: trained, validated, promoted", job_ended("pipeline"), 3600)


def push_data() -> None:
    say(f"pushing {DATA} to the data volume")
    release = {"FRAUDOPS_CLUSTER__RELEASE": RELEASE, "FRAUDOPS_CLUSTER__NAMESPACE": NAMESPACE}
    with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as kubeconfig:
        kubeconfig.write(ask("kind", "get", "kubeconfig", "--name", CLUSTER))
        kubeconfig.flush()
        push = [str(ROOT / ".venv/bin/fraudops"), "data", "push", DATA, "--on-cluster"]
        environment = {**os.environ, **release, "KUBECONFIG": kubeconfig.name}
        if subprocess.run(push, env=environment, check=False).returncode != 0:
            fail(f"{DATA} did not reach the data volume: see the message above")


def call(path: str, body: bytes | None = None) -> Any:
    """Return the JSON answer through the ingress. Raises OSError and ValueError."""
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


def predict() -> None:
    """Request one prediction through the ingress and wait for its audit row."""
    wait("the pods of the service", ready("deployment/fraudops-inference"), 240)
    wait(f"the ingress at {URL}", answers, 120)
    answer = call("/predict", (ROOT / "fraudops/datasets/sample/transaction.json").read_bytes())
    say(f"a prediction: {json.dumps(answer)}")
    columns = "id, timestamp, model_version, fraud_probability, pod"
    # The service made this id, so it is safe in a query.
    prediction = answer["prediction_id"]
    question = f"SELECT {columns} FROM predictions WHERE id = '{prediction}'"  # noqa: S608
    psql = ("psql", "-U", "postgres", "-d", "fraudops", "-tAc", question)
    query = kubectl("exec", "statefulset/fraudops-postgresql", "--", *psql)

    def row() -> tuple[bool, str]:
        audited = ask(*query)
        return bool(audited), audited

    wait("its audit row", row, 60)


def up() -> None:
    need_tools()
    cluster_with_images()
    install()
    first_model()
    predict()
    forward = f"kubectl -n {NAMESPACE} port-forward service/fraudops-mlflow 5000"
    say(f"ready: {URL}/docs, {URL}/model_info; the registry: {forward}")


def down() -> None:
    run("kind", "delete", "cluster", "--name", CLUSTER)
    say(f"the cluster {CLUSTER} is deleted")


def main() -> None:
    commands: dict[str, Callable[[], None]] = {"up": up, "images": images, "down": down}
    commands |= {f"addon-{name}": partial(addons.need, name) for name in addons.ADDONS}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.stderr.write(f"usage: python3 k8s/cluster.py {' | '.join(commands)}\n")
        sys.exit(64)
    try:
        commands[sys.argv[1]]()
    except FailedError as failed:
        say(str(failed))
        sys.exit(1)


if __name__ == "__main__":
    main()
