"""Other model servers, each as in its own quick start, with the same model.

Each runs in its own environment outside the checkout. NAME.txt pins the whole environment. uv
installs it from PyPI into the user's cache, once for each content of the file.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import bare_environment, free_port
from benchmarks.protocols import FRAME, INSTANCES, ROWS, TENSOR, Protocol

HERE = Path(__file__).parent
INSTALL_SECONDS = 900


class PeerError(Exception):
    """A peer cannot be installed or prepared on this machine; the message has the reason."""


@dataclass(frozen=True)
class Launch:
    """The command that starts a prepared peer; `url` answers when the peer is ready."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    url: str


@dataclass(frozen=True)
class Peer:
    """Another model server.

    `launch` gets the environment's folder of programs, a working folder with `model.joblib`, and
    the number of workers.
    """

    name: str
    title: str
    protocol: Protocol
    launch: Callable[[Path, Path, int], Launch]


def _mlserver(programs: Path, folder: Path, workers: int) -> Launch:
    port, others = free_port(), [free_port(), free_port()]
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": others[0],
        "metrics_port": others[1],
        "parallel_workers": workers,
        "debug": False,
    }
    model = {
        "name": "fraud",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v1"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return Launch(
        [str(programs / "mlserver"), "start", "."],
        {},
        folder,
        f"http://127.0.0.1:{port}/v2/models/fraud/infer",
    )


def _bentoml(programs: Path, folder: Path, workers: int) -> Launch:
    port = free_port()
    shutil.copy(HERE / "bentoml_service.py", folder)
    command = [
        str(programs / "bentoml"),
        "serve",
        "bentoml_service:Fraud",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--api-workers",
        str(workers),
    ]
    environment = {
        "BENCHMARK_MODEL": str(folder / "model.joblib"),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    return Launch(command, environment, folder, f"http://127.0.0.1:{port}/predict")


def _kserve(programs: Path, folder: Path, workers: int) -> Launch:
    port = free_port()
    options = [
        "--model_name",
        "fraud",
        "--http_port",
        str(port),
        "--enable_grpc",
        "false",
        "--workers",
        str(workers),
    ]
    command = [str(programs / "python"), str(HERE / "kserve_server.py"), *options]
    return Launch(
        command,
        {"BENCHMARK_MODEL": str(folder / "model.joblib")},
        folder,
        f"http://127.0.0.1:{port}/v1/models/fraud:predict",
    )


def _mlflow(programs: Path, folder: Path, workers: int) -> Launch:
    port = free_port()
    options = [
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        str(workers),
    ]
    command = [
        str(programs / "mlflow"),
        "models",
        "serve",
        "--model-uri",
        str(folder / "mlflow"),
        *options,
    ]
    return Launch(
        command,
        {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        folder,
        f"http://127.0.0.1:{port}/invocations",
    )


PEERS = (
    Peer("mlserver", "MLServer", TENSOR, _mlserver),
    Peer("bentoml", "BentoML", ROWS, _bentoml),
    Peer("kserve", "KServe SDK", INSTANCES, _kserve),
    Peer("mlflow", "mlflow models serve", FRAME, _mlflow),
)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudops-benchmarks"


def install(peer: Peer) -> Path:
    """Return the folder of the environment's programs; install it first if needed.

    Raises PeerError.
    """
    pins = HERE / f"{peer.name}.txt"
    folder = cache() / f"{peer.name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    programs = folder / "bin"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([*_uv(), "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run(
            [
                *_uv(),
                "pip",
                "install",
                "--quiet",
                "--python",
                str(programs / "python"),
                "--no-deps",
                "-r",
                str(pins),
            ],
            UV_COMPILE_BYTECODE="1",
        )
        # Written last: an installation that was interrupted is started again.
        (folder / "complete").touch()
    return programs


def prepare(peer: Peer, programs: Path, folder: Path, plain: Path, workers: int) -> Launch:
    """Convert the model for the peer, and return how to start it. Raises PeerError."""
    folder.mkdir(parents=True)
    _run(
        [
            str(programs / "python"),
            str(HERE / "pipeline.py"),
            str(plain),
            str(folder / "model.joblib"),
        ]
    )
    if peer.name == "mlflow":
        _run(
            [
                str(programs / "python"),
                str(HERE / "mlflow_model.py"),
                str(folder / "model.joblib"),
                str(folder / "mlflow"),
            ]
        )
    launch = peer.launch(programs, folder, workers)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return Launch(
        launch.command,
        bare_environment(**launch.environment) | {"PATH": path},
        launch.folder,
        launch.url,
    )


def _uv() -> list[str]:
    return [str(Path(sys.executable).with_name("uv"))]


def _run(command: list[str], **environment: str) -> None:
    variables: Mapping[str, str] = {**os.environ, **environment}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode != 0:
        raise PeerError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-400:]}")
