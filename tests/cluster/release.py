"""An installed release of the chart, used through kubectl, helm, psql and `fraudops`."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.cluster.overview import Overview, look
from tests.cluster.observations import Promoted, Run, Seen, stamped
from tests.support.known_transaction import TRANSACTION
from tests.support.shared_servers import alone
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "fraudops"
# The address of the ingress on this machine.
URL = os.environ.get("KIND_URL", "http://localhost:8080")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": False,
    "capabilities": {"drop": ["ALL"]},
}
ENDED = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
# One loop for all calls: a TLS connection needs some turns of the loop to close.
LOOP = asyncio.Runner(loop_factory=asyncio.new_event_loop)
Object = dict[str, Any]


@dataclass(frozen=True)
class Repetitions:
    """How often the tests repeat each kind of event, and the rows that they audit."""

    broadcasts: int
    rollouts: int
    kills: int
    deletions: int
    audited_rows: int


@dataclass(frozen=True)
class Release:
    """A release in one namespace of a cluster; `values` are those of its first installation.

    `key_secret` names the Secret with the API key that its clients send, if they need one.
    """

    context: str
    kubeconfig: Path
    values: Object = field(default_factory=dict)
    name: str = "fraudops"
    namespace: str = "fraudops"
    database: tuple[str, ...] = ()
    key_secret: str = ""

    @property
    def postgresql(self) -> tuple[str, ...]:
        """Words of `kubectl exec` for the pod of PostgreSQL: `database`, or the chart's own."""
        return self.database or (f"statefulset/{self.name}-postgresql",)

    # -- tools

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return run(
            "kubectl",
            "--context",
            self.context,
            "--namespace",
            self.namespace,
            *arguments,
            stdin=stdin,
            check=check,
        )

    def answer(self, *arguments: str, stdin: Object | None = None) -> str:
        """Run kubectl, and return its output or the API's refusal."""
        done = subprocess.run(
            ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments],
            input=json.dumps(stdin) if stdin else None,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def helm(self, *arguments: str, program: str = "helm") -> str:
        return run(
            program, "--kube-context", self.context, "--namespace", self.namespace, *arguments
        )

    def install(
        self, *sets: str, chart: Path = CHART, program: str = "helm", wait: bool = True
    ) -> None:
        """Run `helm upgrade --install` with the release's values and the additional `sets`.

        With `wait` it returns when everything is ready.
        """
        chosen = [argument for value in sets for argument in ("--set", value)]
        waiting = ["--wait", "--timeout", "8m"] if wait else []
        if program == "helm":
            # `kubectl scale` owns the field `replicas` after a test has scaled by hand.
            waiting.append("--force-conflicts")
        with self.values_file() as values:
            self.helm(
                "upgrade",
                "--install",
                self.name,
                str(chart),
                "--values",
                values,
                *chosen,
                *waiting,
                program=program,
            )

    def roll_back_to(self, revision: int) -> None:
        """Run `helm rollback`, and return when everything of that revision is ready."""
        waiting = ("--wait", "--timeout", "8m", "--force-conflicts")
        self.helm("rollback", self.name, str(revision), *waiting)

    @contextmanager
    def values_file(self) -> Iterator[str]:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(self.values, file)
            file.flush()
            yield file.name

    def fraudops(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run the command `fraudops` on this machine with this cluster's kubeconfig."""
        script = "from jobs.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"fraudops {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    @property
    def environment(self) -> dict[str, str]:
        named = {
            "FRAUDOPS_CLUSTER__RELEASE": self.name,
            "FRAUDOPS_CLUSTER__NAMESPACE": self.namespace,
        }
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("FRAUDOPS_")
        }
        return kept | named | {"KUBECONFIG": str(self.kubeconfig)}

    @property
    def jobs_image(self) -> str:
        return f"fraudops-jobs:{self.values['jobs']['image']['tag']}"

    def sql(self, query: str) -> str:
        return self.kubectl(
            "exec",
            *self.postgresql,
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            "fraudops",
            "-tAc",
            query,
        ).strip()

    # -- objects

    def get(self, *what: str) -> Object:
        return dict(json.loads(self.kubectl("get", *what, "-o", "json")))

    def objects(self, kind: str, component: str = "") -> list[Object]:
        selector = f"app.kubernetes.io/instance={self.name}" + (
            f",app.kubernetes.io/component={component}" if component else ""
        )
        items: list[Object] = self.get(kind, "-l", selector)["items"]
        return items

    def pods(self, component: str = "inference") -> list[str]:
        """Return the names of the component's pods that run and are not being deleted."""
        living = [
            pod
            for pod in self.objects("pods", component)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        return sorted(pod["metadata"]["name"] for pod in living)

    def record(self) -> Object:
        data = self.get("configmap", f"{self.name}-serving").get("data") or {}
        return dict(json.loads(data.get("serving.json", "{}")))

    def serving(self) -> tuple[str, int]:
        current = self.record()["current"]
        return str(current["version"]), int(current["epoch"])

    def status(self) -> Object:
        return dict(
            json.loads(self.fraudops("status", "--on-cluster", "--json", check=False).stdout)
        )

    def agreed(self) -> tuple[str, int]:
        """Return version and epoch once the record, the alias and every worker agree on them."""

        def check() -> tuple[str, int]:
            # `fraudops status` prints the same, but each run of it takes a second to start.
            overview = LOOP.run(self.overview())
            record = overview.record
            assert overview.well, overview
            assert record.reserved is None, record
            assert record.alias_epoch == record.epoch, record
            assert record.current is not None
            return record.current.version, record.current.epoch

        return eventually(check, 180, 1.0)

    async def overview(self) -> Overview:
        async with Cluster.connect(self.namespace) as cluster:
            return await look(cluster, self.name)

    def scale(self, replicas: int, deployment: str = "inference", wait: bool = True) -> None:
        self.kubectl("scale", f"deployment/{self.name}-{deployment}", f"--replicas={replicas}")
        if wait:
            self.kubectl(
                "rollout", "status", f"deployment/{self.name}-{deployment}", "--timeout=300s"
            )

    @contextmanager
    def away(self, *workloads: str) -> Iterator[None]:
        """Scale workloads such as `deployment/mlflow` to 0 replicas within the block."""
        for workload in workloads:
            kind, _, name = workload.partition("/")
            self.kubectl("scale", f"{kind}/{self.name}-{name}", "--replicas=0")
        for workload in workloads:
            component = workload.partition("/")[2]
            eventually(
                lambda component=component: none_of(self.objects("pods", component)), 120, 1.0
            )  # type: ignore[misc]
        try:
            yield
        finally:
            for workload in workloads:
                kind, _, name = workload.partition("/")
                self.kubectl("scale", f"{kind}/{self.name}-{name}", "--replicas=1")
            for workload in workloads:
                kind, _, name = workload.partition("/")
                self.kubectl("rollout", "status", f"{kind}/{self.name}-{name}", "--timeout=300s")

    # -- models

    def new_version(self, seed: int) -> str:
        """Train and validate a version with the chart's Jobs; return it."""
        trained = json.loads(
            self.fraudops("train", "--on-cluster", "--seed", str(seed), "--json").stdout
        )
        version = str(trained["version"])
        self.fraudops("validate", "--on-cluster", "--version", version)
        return version

    def promote(self, version: str, *arguments: str) -> Promoted:
        """Promote the version with a Job of the chart and wait for the end of the Job."""
        done = self.fraudops(
            "promote",
            "--on-cluster",
            "--version",
            version,
            "--alias",
            "production",
            *arguments,
            check=False,
        )
        return self.promoted(done)

    def rollback(self) -> Promoted:
        return self.promoted(self.fraudops("rollback", "--on-cluster", check=False))

    def promoted(self, done: "subprocess.CompletedProcess[str]") -> Promoted:
        job = done.stderr.split("Job ", 1)[1].split()[0]
        log = self.kubectl("logs", f"job/{job}", "--timestamps", "--tail=-1", check=False)
        return Promoted(
            done.returncode,
            job,
            done.stdout + done.stderr,
            [stamped(line) for line in log.split("\n") if line],
        )

    # -- traffic

    @contextmanager
    def traffic(self, rate: float = 120.0, connections: int = 12) -> Iterator[Seen]:
        """Run clients in a pod, from before the block until after it.

        `rate` is in requests per second, of all connections together.
        """
        seen = Seen()
        command = [
            "python",
            "/clients/clients.py",
            f"http://{self.name}-inference",
            str(rate),
            str(connections),
            "/clients",
        ]
        with self.client(
            command, {"clients.py": (Path(__file__).parent / "clients.py").read_text()}
        ) as pod:
            time.sleep(1)
            yield seen
            time.sleep(1)
            self.kubectl("exec", pod, "--", "touch", "/tmp/stop")
            line = eventually(lambda: last_line(self.kubectl("logs", pod)), 60, 0.5)
            seen.runs = [Run(*entry) for entry in line["runs"]]
            seen.failures = [(moment, text) for moment, text in line["failures"]]
            seen.ids = self.kubectl("exec", pod, "--", "cat", "/tmp/answers").split()

    @contextmanager
    def client(self, command: list[str], files: dict[str, str]) -> Iterator[str]:
        """Run a pod that may reach the service; yield its name.

        It has the files and transaction.json in /clients.
        """
        pod = f"clients-{os.urandom(3).hex()}"
        data = files | {"transaction.json": TRANSACTION.decode()}
        self.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": pod}, "data": data}
        )
        self.apply(self.client_pod(pod, command, {"fraudops.io/access-inference": "true"}, pod))
        try:
            self.kubectl("wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=120s")
            yield pod
        finally:
            self.kubectl(
                "delete",
                f"pod/{pod}",
                f"configmap/{pod}",
                "--wait=false",
                "--grace-period=1",
                check=False,
            )

    def client_pod(
        self, name: str, command: list[str], labels: dict[str, str], files: str | None = None
    ) -> Object:
        """Return the manifest of a pod that runs `command` in the release's Jobs image.

        `files` names a ConfigMap that is mounted at /clients.
        """
        container: Object = {
            "name": "client",
            "image": self.jobs_image,
            "command": command,
            "securityContext": RESTRICTED,
        }
        if self.key_secret:
            key = {"secretKeyRef": {"name": self.key_secret, "key": "key"}}
            container["env"] = [{"name": "FRAUDOPS_API_KEY", "valueFrom": key}]
        spec: Object = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        }
        if files:
            container["volumeMounts"] = [{"name": "clients", "mountPath": "/clients"}]
            spec["volumes"] = [{"name": "clients", "configMap": {"name": files}}]
        ours = {
            "app.kubernetes.io/name": "fraudops",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": "client",
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": (ours | labels) if labels else {}},
            "spec": spec,
        }

    def apply(self, manifest: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def audited(self, ids: list[str]) -> dict[str, int]:
        """Return how often each id is in the table; ids that are not there are left out."""
        listed = "\n".join(ids)
        query = (
            "CREATE TEMP TABLE answered (id uuid); COPY answered FROM STDIN;\n" + listed + "\n\\.\n"
            "SELECT p.id, count(*) FROM predictions p JOIN answered USING (id) GROUP BY 1;\n"
        )
        command = (
            "exec",
            "-i",
            *self.postgresql,
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            "fraudops",
            "-qtA",
            "-F",
            " ",
        )
        return {
            line.split()[0]: int(line.split()[1])
            for line in self.kubectl(*command, stdin=query).splitlines()
            if line.strip()
        }

    def assert_all_audited(self, ids: list[str]) -> None:
        def check() -> None:
            counts = self.audited(ids)
            assert len(counts) == len(ids), (
                f"{len(ids) - len(counts)} of {len(ids)} answered predictions are not in the table"
            )
            assert set(counts.values()) <= {1}, "a prediction is there twice"

        eventually(check, 120, 2.0)


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, (
        f"{' '.join(command[:12])}: exit {done.returncode}\n"
        f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


def last_line(log: str) -> Object:
    return dict(json.loads(log.splitlines()[-1]))


def none_of(objects: list[Object]) -> None:
    assert not objects, f"{len(objects)} are still there"


def until(check: Callable[[], bool], seconds: float, what: str) -> None:
    def checked() -> None:
        assert check(), f"not within {seconds:g} s: {what}"

    eventually(checked, seconds, 1.0)


@contextmanager
def installed(cluster: str, folder: Path) -> Iterator[Release]:
    """Yield the release of `make kind-up` with the values of its installation.

    All test processes of a run share `folder`.
    """
    with kubeconfig_of(cluster) as kubeconfig:
        release = Release(f"kind-{cluster}", kubeconfig)
        yield replace(release, values=first_values(release, folder))


def first_values(release: Release, folder: Path) -> Object:
    """Return the release's values as they were before a test of this run changed them.

    The first process writes them to a file. When a second process starts, a test of the first one
    may already have changed the release.
    """
    file = folder / "values.json"
    with alone(folder / "values.lock"):
        if not file.exists():
            file.write_text(release.helm("get", "values", release.name, "--output", "json"))
    values: Object = json.loads(file.read_text())
    return values


@contextmanager
def kubeconfig_of(cluster: str) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as file:
        file.write(run("kind", "get", "kubeconfig", "--name", cluster))
        file.flush()
        yield Path(file.name)
