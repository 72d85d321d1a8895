"""The whole product with a model in production, for tests that only need one to answer."""

import json

import httpx
import psutil

from tests.conftest import Platform
from tests.support import eventually


def promoted(platform: Platform) -> Platform:
    """Trains, validates and promotes on the packaged sample unless something already serves."""
    eventually(lambda: _registry_is_its_own(platform), 30)
    if httpx.get(f"{platform.inference_url}/ready").is_success:
        return platform
    version = json.loads(_done(platform, "train", "--json"))["version"]
    _done(platform, "validate", "--version", str(version))
    _done(platform, "promote", "--version", str(version), "--alias", "production")
    # /ready follows a pod's first model at the next look at the record, a little after the promotion's return.
    eventually(lambda: httpx.get(f"{platform.inference_url}/ready").raise_for_status(), 10)
    return platform


def _registry_is_its_own(platform: Platform) -> None:
    """Two products that start at once may choose one port: no test may then train into the other's registry."""
    pids = json.loads(_done(platform, "status", "--json"))["mlflow"]["pids"]
    port = httpx.URL(platform.mlflow_url).port
    listening = {connection.laddr.port for pid in pids for connection in psutil.Process(pid).net_connections("tcp") if connection.status == psutil.CONN_LISTEN}
    assert port in listening, f"port {port} is another product's MLflow"


def _done(platform: Platform, *arguments: str) -> str:
    told = platform.run(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout
