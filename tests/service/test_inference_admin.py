"""Admin calls on their own port, and bundles that one pod downloads from another."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from pydantic import SecretStr

from fraudops.audit.records import Prediction
from fraudops.cluster import peers
from fraudops.errors import SignatureRefusedError, StoreDownError
from fraudops.extensible import encode_document
from fraudops.model.manifest import MANIFEST
from fraudops.model.scorer import SCORER
from fraudops.model.verification import verify_bundle
from fraudops.settings import InferenceSettings
from fraudops.settings.groups import VerificationSettings
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.kept import SUFFIX, KeptCredentials, kept_path
from fraudops.signing.keys import PublicKeys
from services.inference.http.error_answers import speaks_v2
from services.inference.http.messages import Route
from services.inference.http.routes import ROUTES
from services.inference.pod import peer_download
from services.inference.pod.bundle_fetch import fetch_bundle
from tests.support.http_client import HTTP
from tests.support.processes import free_port
from tests.support.serving import TOKEN, ULB_ROW, Service, problem
from tests.support.waiting import eventually

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    made = Service(
        tmp_path_factory.mktemp("admin"),
        workers=1,
        environment={"FRAUDOPS_ADMIN_PORT": str(free_port())},
    )
    yield made.promoted(1)  # type: ignore[misc]
    made.stop()


def admin_url(service: Service) -> str:
    return f"http://127.0.0.1:{service.environment['FRAUDOPS_ADMIN_PORT']}"


def digest(service: Service) -> str:
    return str(service.ready()["digest"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reload"),
        ("POST", "/drain"),
        ("GET", "/reload"),
        ("GET", "/metrics"),
        ("GET", f"/bundles/{'0' * 64}/{MANIFEST}"),
        ("GET", f"/bundles/{'0' * 64}{SUFFIX}"),
    ],
)
def test_admin_calls_do_not_exist_on_the_public_port(
    service: Service, method: str, path: str
) -> None:
    answer = HTTP.request(method, f"{service.url}{path}", headers=BEARER)
    assert answer.status_code == 404
    assert problem(answer)["detail"] == "there is no such endpoint; see /docs"
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.port == "public"], ids=lambda route: route.path
)
def test_the_admin_port_answers_no_public_call(service: Service, route: Route) -> None:
    url = admin_url(service) + route.path
    for headers in ({}, BEARER):
        for body in (None, ULB_ROW):
            answer = HTTP.request(route.method, url, headers=headers, json=body)
            assert answer.status_code == 404
            if speaks_v2(route.path):
                assert answer.json() == {"error": "there is no such endpoint; see /docs"}
            else:
                assert problem(answer)["status"] == 404


def test_latency_begins_at_the_last_byte_of_the_body(service: Service) -> None:
    body = json.dumps(ULB_ROW | {"transaction_id": "uploaded"}).encode()
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        # The pause of the client, which its latency must not include.
        threading.Event().wait(2)
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    (record,) = [
        record
        for record in service.audited()
        if isinstance(record, Prediction) and record.transaction_id == "uploaded"
    ]
    assert record.latency_ms < 1000

    def counted() -> None:
        text = HTTP.get(f"{admin_url(service)}/metrics").text
        (line,) = re.findall(r'http_request_upload_seconds_sum\{endpoint="/predict"\} (\S+)', text)
        assert float(line) > 1.5

    eventually(counted)


def test_admin_calls_are_answered_on_their_own_port(service: Service) -> None:
    assert HTTP.get(f"{admin_url(service)}/metrics").status_code == 200
    assert HTTP.get(f"{admin_url(service)}/ready").status_code == 200
    assert HTTP.post(f"{admin_url(service)}/reload", headers=BEARER).status_code == 200
    assert HTTP.post(f"{service.url}/predict", json=ULB_ROW).status_code == 200


def test_a_bundle_is_given_with_the_token_only(service: Service) -> None:
    url = f"{admin_url(service)}/bundles/{digest(service)}/{MANIFEST}"
    assert HTTP.get(url).status_code == 401
    assert HTTP.get(url, headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{'0' * 64}/{MANIFEST}",
        f"{'0' * 64}{SUFFIX}",
        f"x{SUFFIX}",
        "no-digest/bundle.json",
        "%2e%2e/admin.token",
        f"{'0' * 64}/%2e%2e%2fadmin.token",
    ],
)
def test_nothing_but_files_of_bundles_is_given(service: Service, path: str) -> None:
    assert HTTP.get(f"{admin_url(service)}/bundles/{path}", headers=BEARER).status_code == 404


def test_a_pod_takes_a_bundle_from_the_first_peer_that_has_it(
    service: Service, tmp_path: Path
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    peer_download.download([dead, admin_url(service)], TOKEN, digest(service), tmp_path / "bundle")
    verify_bundle(tmp_path / "bundle", digest(service))


@contextmanager
def altered_peer(service: Service, folder: Path) -> Iterator[str]:
    """Yield the URL of a pod that has an altered file, as after a fault of its disk."""
    copied = folder / "bundles" / digest(service)
    shutil.copytree(service.state.bundles / digest(service), copied)
    (copied / SCORER).write_bytes(b"altered" * 1000)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_peer_with_an_altered_file_does_not_hide_the_next_one(
    service: Service, tmp_path: Path
) -> None:
    with altered_peer(service, tmp_path / "peer") as altered:
        urls = [altered, admin_url(service)]
        peer_download.download(urls, TOKEN, digest(service), tmp_path / "bundle")
        verify_bundle(tmp_path / "bundle", digest(service))
        with pytest.raises(StoreDownError, match="no other pod has it"):
            peer_download.download([altered], TOKEN, digest(service), tmp_path / "other")


def test_a_pod_gives_the_signed_statements_of_a_bundle_with_the_token_only(
    service: Service,
) -> None:
    url = f"{admin_url(service)}/bundles/{digest(service)}{SUFFIX}"
    assert HTTP.get(url).status_code == 401
    dead = f"http://127.0.0.1:{free_port()}"
    (given,) = peer_download.credentials([dead, admin_url(service)], TOKEN, digest(service))
    keys = PublicKeys.read(service.state.public_keys)
    assert accept(given, "1", digest(service), keys).signer == service.key.public.id
    assert peer_download.credentials([admin_url(service)], TOKEN, "0" * 64) == []
    assert peer_download.credentials([admin_url(service)], "a wrong token", digest(service)) == []


@pytest.mark.parametrize("forged", [False, True])
def test_a_pod_without_credentials_takes_those_of_a_peer_and_verifies_them(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: bool
) -> None:
    monkeypatch.setattr(peers, "peer_urls", lambda *_: [admin_url(service)])
    keys = VerificationSettings(public_keys=service.state.public_keys)
    settings = InferenceSettings(state=tmp_path, admin_token=SecretStr(TOKEN), signing=keys)
    kept = kept_path(service.state.bundles, digest(service))
    good = kept.read_bytes()
    if forged:
        kept.write_bytes(good.replace(b'\\"passed\\":true', b'\\"passed\\":true '))
    try:
        if forged:
            with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
                fetch_bundle(settings, tmp_path / "bundles", "1", digest(service))
            assert list((tmp_path / "bundles").iterdir()) == []
        else:
            assert fetch_bundle(settings, tmp_path / "bundles", "1", digest(service)) == "peer"
            assert kept_path(tmp_path / "bundles", digest(service)).read_bytes() == good
    finally:
        kept.write_bytes(good)


def test_a_pod_believes_no_mark_of_a_peer(service: Service) -> None:
    path = kept_path(service.state.bundles, "5" * 64)
    path.write_bytes(encode_document(KeptCredentials(version="1", unsigned=True)))
    given = peer_download.credentials([admin_url(service)], TOKEN, "5" * 64)
    path.unlink()
    assert given == [Credentials()]


def test_a_pod_says_so_when_no_peer_has_a_bundle(service: Service, tmp_path: Path) -> None:
    with pytest.raises(StoreDownError, match="no other pod has it"):
        peer_download.download([admin_url(service)], TOKEN, "0" * 64, tmp_path / "bundle")
    with pytest.raises(StoreDownError, match="no other pod has it"):
        peer_download.download(
            [admin_url(service)], "a wrong token", digest(service), tmp_path / "bundle"
        )


def test_no_client_gets_a_bundle_through_a_proxy_or_redirect(service: Service) -> None:
    answer = httpx.get(
        f"{admin_url(service)}/bundles/{digest(service)}/../../admin.token",
        headers=BEARER,
        trust_env=False,
    )
    assert answer.status_code == 404
