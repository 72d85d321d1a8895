"""How a pod reads the serving record: with its own token, over one connection that is verified."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fraudops.cluster.kept import NEVER_NAMED
from fraudops.errors import StoreDownError
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import (
    EMPTY,
    RecordUnreadableError,
    ServingRecord,
    ServingTarget,
    encode,
)
from fraudops.settings import ClusterSettings, InferenceSettings
from fraudops.state import State
from services.inference.pod import record_reader as module
from services.inference.pod.record_reader import ConfigMapReader, record_reader, template_target
from tests.support.serving_records import record

TARGET = ServingTarget(3, "7", "7" * 64)
RECORD = record(TARGET)
REFUSED_FIRST_ACT = ServingRecord(highest_reserved=1)
IN_CLUSTER = "kubernetes.default.svc"


def config_map(data: bytes) -> bytes:
    return msgspec.json.encode(
        {"kind": "ConfigMap", "metadata": {}, "data": {"serving.json": data.decode()}}
    )


@dataclass
class ApiServer:
    """An HTTPS server that answers every GET with `status` and `body`.

    `closes` says so and closes the connection after each answer. `ends` closes it without a word,
    as an idle one ends. `missing` bytes of each answer do not come. `held` keeps each answer back
    until it is set.
    """

    status: int = 200
    body: bytes = b""
    closes: bool = False
    ends: bool = False
    missing: int = 0
    held: threading.Event | None = None
    port: int = 0
    requests: list[dict[str, str | None]] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        names = ("Authorization", "Accept")
        self.requests.append({name: handler.headers.get(name) for name in names})
        self.requests[-1]["path"] = handler.path
        self.connections.append(handler.client_address[1])
        if self.held:
            self.held.wait(20)
        handler.send_response(self.status)
        handler.send_header("Content-Length", str(len(self.body) + self.missing))
        if self.closes:
            handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(self.body)
        handler.close_connection = self.closes or self.ends or self.missing > 0


def certificate(folder: Path) -> None:
    """Write `ca.crt` and its key, for 127.0.0.1 and the name of the API server in a cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    names = [x509.DNSName(IN_CLUSTER), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(made.public_bytes(pem))
    form, without = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.key").write_bytes(key.private_bytes(pem, form, without))


@pytest.fixture
def account(tmp_path: Path) -> Path:
    folder = tmp_path / "account"
    folder.mkdir()
    certificate(folder)
    (folder / "token").write_text("token-1")
    (folder / "namespace").write_text("of-the-pod")
    return folder


@pytest.fixture
def api(account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Yield an API server with the record; the variables of a pod lead to it."""
    served = ApiServer(body=config_map(encode(RECORD)))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "server.key")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        served.port = server.server_port
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(served.port))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def reader(api: ApiServer, account: Path) -> Iterator[ConfigMapReader]:
    made = ConfigMapReader("demo", "of-the-pod", account)
    yield made
    made.close()


def settings(**cluster: str) -> InferenceSettings:
    return InferenceSettings(cluster=ClusterSettings(**{"release": "demo"} | cluster))


def test_a_pod_reads_its_releases_config_map_with_the_current_token(
    api: ApiServer, account: Path, reader: ConfigMapReader
) -> None:
    assert reader.read() == RECORD
    assert api.requests == [
        {
            "path": "/api/v1/namespaces/of-the-pod/configmaps/demo-serving",
            "Authorization": "Bearer token-1",
            "Accept": "application/json",
        }
    ]
    # The kubelet replaces the token of a pod that lives.
    (account / "token").write_text("token-2")
    assert reader.read() == RECORD
    assert api.requests[1]["Authorization"] == "Bearer token-2"
    assert len(set(api.connections)) == 1


def test_the_namespace_is_that_of_the_settings_or_of_the_pod(api: ApiServer, account: Path) -> None:
    api.closes = True
    assert record_reader(settings(), account)() == RECORD
    (account / "namespace").unlink()
    assert record_reader(settings(namespace="given"), account)() == RECORD
    assert [request["path"] for request in api.requests] == [
        "/api/v1/namespaces/of-the-pod/configmaps/demo-serving",
        "/api/v1/namespaces/given/configmaps/demo-serving",
    ]


def test_a_pod_without_the_variables_asks_the_api_servers_service(
    api: ApiServer, reader: ConfigMapReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    asked = list[tuple[str, int]]()

    def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
        asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", api.port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert reader.read() == RECORD
    assert asked == [(IN_CLUSTER, 443)]


def test_there_is_no_record_only_if_the_api_server_says_so(
    api: ApiServer, reader: ConfigMapReader
) -> None:
    api.status = 404
    assert reader.read() is None
    for status in (401, 403, 500):
        api.status = status
        with pytest.raises(StoreDownError, match=str(status)):
            reader.read()
    api.status = 200
    api.body = marked()
    assert reader.read() == EMPTY
    for body in (b"<html>", b"\xff"):
        api.body = body
        with pytest.raises(StoreDownError, match="not JSON"):
            reader.read()
    api.body = config_map(b"[]")
    with pytest.raises(RecordUnreadableError):
        reader.read()


@pytest.mark.parametrize("annotations", [None, {}, {"of": "the site"}])
@pytest.mark.parametrize(
    "data",
    [None, {}, {"serving.json": ""}, {"serving.json": "{}"}, {"other": "{}"}]
    + [{"serving.json": encode(each).decode()} for each in (EMPTY, REFUSED_FIRST_ACT)],
)
def test_a_record_without_a_model_and_without_the_mark_is_no_record(
    api: ApiServer,
    reader: ConfigMapReader,
    annotations: dict[str, str] | None,
    data: dict[str, str] | None,
) -> None:
    """An administrator may empty a record, or release 0.2.0 may have made it."""
    api.body = msgspec.json.encode({"metadata": {"annotations": annotations}, "data": data})
    assert reader.read() is None


@pytest.mark.parametrize("found", [EMPTY, REFUSED_FIRST_ACT, record(None, TARGET), RECORD])
def test_a_marked_record_is_one_until_and_after_the_first_commit(
    api: ApiServer, reader: ConfigMapReader, found: ServingRecord
) -> None:
    api.body = marked({"serving.json": encode(found).decode()})
    assert reader.read() == found


def test_a_rollout_that_repairs_an_emptied_record_leads_its_pods(
    api: ApiServer, reader: ConfigMapReader
) -> None:
    api.body = config_map(encode(record(None, TARGET)))
    assert reader.read() == record(None, TARGET)


def marked(data: dict[str, str] | None = None) -> bytes:
    """Return a ConfigMap with the mark that the setup Job gives to that of a new release."""
    metadata = {"annotations": {NEVER_NAMED: "true"}}
    return msgspec.json.encode({"kind": "ConfigMap", "metadata": metadata, "data": data})


def test_a_connection_that_has_ended_is_opened_again(
    api: ApiServer, reader: ConfigMapReader
) -> None:
    api.ends = True
    assert [reader.read(), reader.read()] == [RECORD, RECORD]
    assert len(set(api.connections)) == 2


def test_an_api_server_that_is_away_is_an_error_until_it_is_back(
    api: ApiServer, reader: ConfigMapReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.ends = True
    assert reader.read() == RECORD
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(closed.getsockname()[1]))
        for _ in range(2):
            with pytest.raises(StoreDownError, match="does not answer"):
                reader.read()
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    assert reader.read() == RECORD


def test_an_answer_that_ends_early_is_an_error(api: ApiServer, reader: ConfigMapReader) -> None:
    api.missing = 10
    with pytest.raises(StoreDownError, match="does not answer"):
        reader.read()
    api.missing = 0
    assert reader.read() == RECORD


def test_a_server_with_a_foreign_certificate_gets_no_token(
    api: ApiServer, account: Path, reader: ConfigMapReader
) -> None:
    certificate(account)
    with pytest.raises(StoreDownError, match="does not answer"):
        reader.read()
    assert api.requests == []


def test_threads_share_the_connection(api: ApiServer, reader: ConfigMapReader) -> None:
    api.held = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(reader.read) for _ in range(4)]
        threading.Timer(0.3, api.held.set).start()
        assert [each.result(timeout=30) for each in running] == [RECORD] * 4
    assert len(set(api.connections)) == 1


def test_a_server_that_never_answers_does_not_hold_the_pod(
    api: ApiServer, reader: ConfigMapReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    api.held = threading.Event()
    failed = list[str]()

    def try_to_read() -> None:
        with pytest.raises(StoreDownError) as down:
            reader.read()
        failed.append(str(down.value))

    thread = threading.Thread(target=try_to_read, daemon=True)
    thread.start()
    thread.join(10)
    assert len(failed) == 1
    api.held.set()


def test_without_a_release_the_record_is_a_file_of_this_machine(tmp_path: Path) -> None:
    read = record_reader(InferenceSettings(state=tmp_path))
    assert read() is None
    store = FileRecordStore(State.at(tmp_path).serving_record)
    store.compare_and_set(RECORD, store.read()[1])
    assert read() == RECORD


def test_the_pod_template_names_a_target_or_none() -> None:
    assert template_target(InferenceSettings(rollout=str(TARGET))) == TARGET
    assert template_target(InferenceSettings(rollout="7")) is None
    assert template_target(InferenceSettings()) is None
