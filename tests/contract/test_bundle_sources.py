"""Where a pod gets a bundle: its cache, another pod, or the registry. One server is both of them.

It answers with stored files under the paths of a pod's admin port and of MLflow's artifact proxy.
tests/contract/test_registry.py runs the same client against a real MLflow.
"""

import errno
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from fraudops.errors import BundleError, RefusedError, SignatureRefusedError, StoreDownError
from fraudops.extensible import encode_document
from fraudops.model.manifest import MANIFEST
from fraudops.settings import ClusterSettings, InferenceSettings
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import KeptCredentials, kept_path, read_kept
from fraudops.state import State
from services.inference.pod.bundle_fetch import fetch_bundle
from tests.support.bundles import write_linear_bundle
from tests.support.signing import SIGNERS, sign_bundle

RUN = "1/abc/artifacts"
API = "/api/2.0/"


@dataclass
class Files:
    """What the server has: the body of each path, and the paths that were asked for."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def put_on_peer(self, folder: Path, digest: str) -> None:
        for path in folder.iterdir():
            self.bodies[f"/bundles/{digest}/{path.name}"] = path.read_bytes()

    def put_in_registry(self, folder: Path, version: str) -> None:
        """Store the bundle as that of a version of the model `credit-fraud`."""
        row = {
            "version": version,
            "source": f"mlflow-artifacts:/{RUN}/bundle",
            "creation_timestamp": 0,
        }
        about = f"{API}mlflow/model-versions/get?credit-fraud+{version}"
        self.bodies[about] = msgspec.json.encode({"model_version": row})
        files = [{"path": path.name, "is_dir": False} for path in folder.iterdir()]
        listing = f"{API}mlflow-artifacts/artifacts?{RUN}/bundle"
        self.bodies[listing] = msgspec.json.encode({"files": files})
        for path in folder.iterdir():
            stored = f"{API}mlflow-artifacts/artifacts/{RUN}/bundle/{path.name}"
            self.bodies[stored] = path.read_bytes()

    def asked_of_registry(self) -> bool:
        return any(path.startswith(API) for path in self.asked)

    def answer(self, path: str, token: str | None) -> tuple[int, bytes]:
        """Return status and body. A query counts by its values, in the order of their names."""
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        values = "+".join(query[name][0] for name in sorted(query))
        name = f"{parts.path}?{values}" if values else parts.path
        self.asked.append(name)
        if name.startswith("/bundles/") and token != "Bearer secret":
            return 401, b""
        if parts.path == f"{API}mlflow/model-versions/search":
            return 200, b"{}"
        if name in self.bodies:
            return 200, self.bodies[name]
        return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}'


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Yield the server, and let the names of the release's pods lead to it."""
    served = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = served.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        pods = {"demo-inference-admin.test": "127.0.0.1", socket.gethostname(): "127.0.0.2"}
        return real(pods.get(host, host), *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.port = server.server_port
        yield served
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Made:
    """A signed bundle outside of the cache."""

    folder: Path
    digest: str
    credentials: Credentials


@pytest.fixture
def made(tmp_path: Path) -> Made:
    digest = write_linear_bundle(tmp_path / "made")
    signed = sign_bundle((tmp_path / "made" / MANIFEST).read_bytes(), "7", SIGNERS.verdict)
    return Made(tmp_path / "made", digest, Credentials(signed_verdict=signed))


@dataclass(frozen=True)
class Pod:
    settings: InferenceSettings
    bundles: Path

    def fetch(self, made: Made, **options: Any) -> str:
        given = {"credentials": [made.credentials]} | options
        return fetch_bundle(self.settings, self.bundles, "7", made.digest, **given)

    def names(self) -> set[str]:
        return {path.name for path in self.bundles.iterdir()}


@pytest.fixture
def pod(tmp_path: Path, files: Files) -> Pod:
    """Return a new pod of a release; its state folder holds only the public keys."""
    state = State.at(tmp_path / "state")
    SIGNERS.write_public(state.public_keys)
    return Pod(
        InferenceSettings(
            state=state.root,
            cluster=ClusterSettings(release="demo", namespace="test"),
            admin_port=files.port,
            admin_token="secret",
            MLFLOW_TRACKING_URI=f"http://127.0.0.1:{files.port}",
        ),
        state.root / "cache" / "bundles",
    )


def changed(pod: Pod, **changes: Any) -> Pod:
    return Pod(pod.settings.model_copy(update=changes), pod.bundles)


def whole(pod: Pod, made: Made) -> None:
    """Assert that the cache has the bundle, its credentials, and nothing else."""
    assert pod.names() == {made.digest, kept_path(pod.bundles, made.digest).name}
    copied = {path.name: path.read_bytes() for path in (pod.bundles / made.digest).iterdir()}
    assert copied == {path.name: path.read_bytes() for path in made.folder.iterdir()}


def test_another_pod_is_asked_before_the_registry(pod: Pod, files: Files, made: Made) -> None:
    files.put_on_peer(made.folder, made.digest)
    files.put_in_registry(made.folder, "7")
    assert pod.fetch(made) == "peer"
    whole(pod, made)
    assert not files.asked_of_registry()
    files.asked.clear()
    assert pod.fetch(made) == "cache"
    assert files.asked == []


def test_the_registry_is_asked_if_no_pod_has_the_bundle(
    pod: Pod, files: Files, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    files.put_in_registry(made.folder, "7")
    with caplog.at_level(logging.INFO):
        assert pod.fetch(made) == "registry"
    whole(pod, made)
    (logged,) = [line for line in caplog.records if "no other pod" in line.message]
    assert logged.name == "services.inference.pod.bundle_fetch"
    assert (logged.__dict__["digest"], "has it" in logged.__dict__["reason"]) == (made.digest, True)


@pytest.mark.parametrize("name", [MANIFEST, "scorer.json"])
def test_an_altered_bundle_of_a_pod_is_not_used(
    pod: Pod, files: Files, made: Made, name: str
) -> None:
    files.put_in_registry(made.folder, "7")
    files.put_on_peer(made.folder, made.digest)
    files.bodies[f"/bundles/{made.digest}/{name}"] += b" "
    # The registry must not complete the files of the pod.
    files.bodies[f"/bundles/{made.digest}/more"] = b"more"
    assert pod.fetch(made) == "registry"
    whole(pod, made)


@pytest.mark.parametrize("changes", [{"admin_token": None}, {"admin_port": None}])
def test_a_pod_without_peers_asks_the_registry(
    pod: Pod,
    files: Files,
    made: Made,
    changes: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    files.put_on_peer(made.folder, made.digest)
    files.put_in_registry(made.folder, "7")
    with caplog.at_level(logging.INFO):
        assert changed(pod, **changes).fetch(made) == "registry"
    assert not [path for path in files.asked if path.startswith("/bundles/")]
    assert "no other pod" not in caplog.text
    # Credentials that only a pod could have are missing then.
    kept_path(pod.bundles, made.digest).unlink()
    with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
        changed(pod, **changes).fetch(made, credentials=[])


def test_an_altered_bundle_of_the_registry_is_refused_and_leaves_nothing(
    pod: Pod, files: Files, made: Made
) -> None:
    files.put_in_registry(made.folder, "7")
    files.bodies[f"{API}mlflow-artifacts/artifacts/{RUN}/bundle/scorer.json"] += b" "
    with pytest.raises(BundleError, match=rf"{made.digest[:12]} is not in the cache; .*altered"):
        pod.fetch(made)
    assert pod.names() == {kept_path(pod.bundles, made.digest).name}


def test_a_whole_bundle_of_another_digest_is_refused_wherever_it_comes_from(
    pod: Pod, files: Files, made: Made, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_linear_bundle(other, seed=1)
    files.put_on_peer(other, made.digest)
    files.put_in_registry(other, "7")
    pod.bundles.mkdir(parents=True)
    shutil.copytree(other, pod.bundles / made.digest)
    with pytest.raises(
        BundleError, match=r"the cached bundle .* was refused: .* expected .*; .* expected "
    ):
        pod.fetch(made)
    assert pod.names() == {kept_path(pod.bundles, made.digest).name}


def test_a_version_that_the_registry_does_not_know_is_refused(
    pod: Pod, files: Files, made: Made
) -> None:
    with pytest.raises(RefusedError, match=r"not in the cache; .*has no version '7'") as refused:
        pod.fetch(made)
    # The bundle may be whole: it does not count as a refused one.
    assert not isinstance(refused.value, BundleError)


def test_a_registry_that_is_away_is_temporary(pod: Pod, files: Files, made: Made) -> None:
    for changes in ({"mlflow_tracking_uri": "http://127.0.0.1:9"}, {"mlflow_tracking_uri": None}):
        with pytest.raises(StoreDownError, match=r"is not in the cache; .*MLFLOW_TRACKING_URI"):
            changed(pod, **changes).fetch(made)
    assert pod.names() == {kept_path(pod.bundles, made.digest).name}


def test_a_start_without_a_download_asks_no_one(pod: Pod, files: Files, made: Made) -> None:
    files.put_on_peer(made.folder, made.digest)
    with pytest.raises(BundleError, match=f"the bundle {made.digest[:12]} is not in the cache"):
        pod.fetch(made, fetch=False)
    # The credentials come before the bundle, so that no crash leaves a bundle without them.
    kept = read_kept(pod.bundles, made.digest)
    assert kept is not None
    assert (kept.version, kept.signed_verdict) == ("7", made.credentials.signed_verdict)
    kept_path(pod.bundles, made.digest).unlink()
    with pytest.raises(SignatureRefusedError):
        pod.fetch(made, credentials=None, fetch=False)
    assert files.asked == []


def test_an_altered_bundle_of_the_cache_is_fetched_again(
    pod: Pod, files: Files, made: Made
) -> None:
    files.put_on_peer(made.folder, made.digest)
    assert pod.fetch(made) == "peer"
    (pod.bundles / made.digest / "scorer.json").write_text("altered")
    assert pod.fetch(made) == "peer"
    whole(pod, made)
    (pod.bundles / made.digest / "scorer.json").write_text("altered")
    files.bodies.clear()
    with pytest.raises(StoreDownError, match=r"the cached bundle .* was refused: .*altered"):
        changed(pod, mlflow_tracking_uri=None).fetch(made)
    assert pod.names() == {kept_path(pod.bundles, made.digest).name}


@pytest.mark.parametrize("recorded", [None, [], [Credentials(signed_waiver="{}")]])
def test_the_credentials_of_another_pod_count_if_they_prove_the_bundle(
    pod: Pod, files: Files, made: Made, recorded: list[Credentials] | None
) -> None:
    kept = KeptCredentials(version="7", signed_verdict=made.credentials.signed_verdict)
    files.bodies[f"/bundles/{made.digest}.credentials.json"] = encode_document(kept)
    files.put_on_peer(made.folder, made.digest)
    assert pod.fetch(made, credentials=recorded) == "peer"
    whole(pod, made)
    found = read_kept(pod.bundles, made.digest)
    assert found is not None
    assert found.signed_verdict == made.credentials.signed_verdict


def test_the_refusal_names_the_fault_of_the_record_and_not_that_of_another_pod(
    pod: Pod, files: Files, made: Made
) -> None:
    foreign = sign_bundle((made.folder / MANIFEST).read_bytes(), "8", SIGNERS.verdict)
    kept = KeptCredentials(version="8", signed_verdict=foreign, unsigned=True)
    files.bodies[f"/bundles/{made.digest}.credentials.json"] = encode_document(kept)
    files.put_on_peer(made.folder, made.digest)
    for recorded in ([], None):
        with pytest.raises(SignatureRefusedError, match="version 7 has no signed verdict"):
            pod.fetch(made, credentials=recorded)
    assert pod.names() == set()


def test_what_killed_processes_have_left_goes_and_all_else_stays(pod: Pod, made: Made) -> None:
    pod.bundles.mkdir(parents=True)
    made.folder.rename(pod.bundles / made.digest)
    for folder in (".incoming-a-1", ".refused-b-2"):
        (pod.bundles / folder).mkdir()
        (pod.bundles / folder / "scorer.json").touch()
    for file in (".x.tmp", "x.tmp", ".y"):
        (pod.bundles / file).touch()
    assert pod.fetch(made) == "cache"
    kept = kept_path(pod.bundles, made.digest).name
    assert pod.names() == {made.digest, kept, "x.tmp", ".y"}


def test_a_disk_that_cannot_delete_hides_no_refusal_and_no_bundle(
    pod: Pod, files: Files, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put_on_peer(made.folder, made.digest)
    assert pod.fetch(made) == "peer"

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rmdir", fail)
    (pod.bundles / made.digest / "scorer.json").write_text("altered")
    with pytest.raises(BundleError, match="has been altered"):
        pod.fetch(made, fetch=False)
    # The altered bundle has left its place in the cache. The next fetch cannot remove it either.
    assert made.digest not in pod.names()
    assert pod.fetch(made) == "peer"
    assert (pod.bundles / made.digest / "scorer.json").read_text() != "altered"
    files.bodies[f"/bundles/{made.digest}/scorer.json"] += b" "
    (pod.bundles / made.digest).rename(pod.settings.state / "moved")
    with pytest.raises(StoreDownError, match=r"not in the cache; .*MLFLOW_TRACKING_URI is not set"):
        changed(pod, mlflow_tracking_uri=None).fetch(made)
