"""A registry inside the cluster may have a certificate of a company's own CA."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fraudops.datasets.official import fetch
from fraudops.errors import SettingsError, StoreDownError
from fraudops.registry.api import MlflowApi
from tests.support.certificates import Authority, make_authority


class Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def company(tmp_path: Path) -> Authority:
    return make_authority(tmp_path, "company")


@pytest.fixture
def registry(company: Authority, tmp_path: Path) -> Iterator[str]:
    """The URL of a server with a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*company.issue(tmp_path, "registry", "127.0.0.1"))
    with HTTPServer(("127.0.0.1", 0), Empty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_direct_call_trusts_the_certificates_of_the_environment(
    registry: str, company: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(company.file))
    assert MlflowApi(registry, 10.0).call("GET", "experiments/get") == {}


def test_without_them_it_is_refused(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(StoreDownError):
        MlflowApi(registry, 10.0).call("GET", "experiments/get")


def test_a_file_that_is_not_there_is_a_mistake_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        MlflowApi("http://127.0.0.1:5000", 10.0)
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        fetch(tmp_path / "data.csv")
