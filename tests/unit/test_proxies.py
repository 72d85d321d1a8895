"""Behind a proxy, loopback and cluster addresses bypass it, and other hosts use it."""

import ast
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import requests
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from fraudops.cluster import overview
from fraudops.cluster.api import Cluster
from fraudops.datasets.official import Mirror, fetch
from fraudops.proxies import bypass_proxies, goes_direct
from fraudops.registry.api import MlflowApi
from tests.support.file_server import Served, serve
from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
DIRECT = ["localhost", "127.0.0.1", "127.3.2.1", "[::1]", "mlflow", "a.b.svc", "a.b.svc.our.net"]
PROXIED = ["storage.googleapis.com", "mlflow.example.com", "10.1.2.3", "notlocalhost.org"]


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"well": True}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def local() -> Iterator[str]:
    """The address of a loopback server that answers every GET with JSON."""
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment with a proxy that does not answer, and without hosts that bypass it."""
    address = f"http://127.0.0.1:{free_port()}"
    for name in VARIABLES:
        # A first value makes monkeypatch restore what the code under test writes.
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, address)
            if name == "no_proxy":
                monkeypatch.delenv(variable)
    return address


@pytest.mark.parametrize("host", DIRECT)
def test_loopback_and_cluster_hosts_bypass_the_proxy(host: str) -> None:
    assert goes_direct(host.strip("[]"))


@pytest.mark.parametrize("host", PROXIED)
def test_other_hosts_use_the_proxy(host: str) -> None:
    assert not goes_direct(host)


def test_the_api_server_bypasses_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert goes_direct("10.96.0.1")


@pytest.mark.parametrize("host", [*DIRECT, *PROXIED])
def test_every_client_of_a_library_decides_the_same(
    host: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`requests` is MLflow's client. `aiohttp` decides like urllib."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{host}:5000")
    bypass_proxies()
    url = f"http://{host}:5000/api"
    direct = goes_direct(host)
    assert (requests.utils.get_environ_proxies(url) == {}) is direct
    with httpx.Client(trust_env=True) as client:
        assert (client._transport_for_url(httpx.URL(url)) is client._transport) is direct
    if direct:
        with pytest.raises(LookupError):
            get_env_proxy_for_url(URL(url))
    else:
        assert str(get_env_proxy_for_url(URL(url))[0]) == proxy


def test_hosts_that_the_user_excludes_stay_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", ".example.com, 10.1.2.3")
    monkeypatch.setenv("NO_PROXY", "other.org")
    bypass_proxies()
    for host in ("mlflow.example.com", "10.1.2.3", "other.org", "127.0.0.1"):
        assert requests.utils.get_environ_proxies(f"http://{host}/") == {}


@pytest.mark.parametrize("hosts", ["*", "other.org, *"])
def test_a_user_who_excludes_all_hosts_keeps_that(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", hosts)
    bypass_proxies()
    url = "http://mlflow.example.com/"
    assert requests.utils.get_environ_proxies(url) == {}
    with pytest.raises(LookupError):
        get_env_proxy_for_url(URL(url))


def test_our_mlflow_client_calls_this_machine_directly(local: str) -> None:
    api = MlflowApi(local, 5.0)
    assert api.call("GET", "anything") == {"well": True}
    api.close()


async def test_our_kubernetes_client_calls_this_machine_directly(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kind, the API server listens on the loopback."""
    config = {
        "current-context": "kind",
        "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "me"}}],
        "clusters": [{"name": "kind", "cluster": {"server": local}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    async with Cluster.connect("default") as cluster:
        assert await cluster.call("GET", "/version") == {"well": True}


def test_a_pod_asks_itself_directly(local: str) -> None:
    script = overview.ASK.replace(f"http://127.0.0.1:{overview.PORT}", local)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == {"well": True}


def test_data_is_fetched_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host has this name, so only a proxy can have answered."""
    bypass_proxies()
    with serve(Served(b"the file")) as server:
        monkeypatch.setenv("http_proxy", server.url)
        checksum = hashlib.sha256(b"the file").hexdigest()
        fetch(tmp_path / "file.csv", (Mirror("http://data.invalid/file.csv"),), checksum)
    assert (tmp_path / "file.csv").read_bytes() == b"the file"


def test_every_http_client_says_whether_it_reads_the_environment() -> None:
    """By default an httpx client follows HTTP_PROXY, even to a pod or to this machine."""
    silent = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("fraudops", "jobs", "services")
        for path in (ROOT / folder).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("httpx.Client", "httpx.AsyncClient", "httpx.get")
        and "trust_env" not in {keyword.arg for keyword in call.keywords}
    ]
    assert silent == []
