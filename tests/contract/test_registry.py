"""The registry client against a real MLflow server.

A small server of the test gives the answers that a healthy MLflow never gives.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from fraudops.errors import BundleError, SettingsError, StoreDownError, UnknownVersionError
from fraudops.registry import (
    TAG_DIGEST,
    TAG_SAMPLE,
    TAG_VERDICT,
    ModelVersion,
    Registry,
    artifacts,
    verified_bundle,
)
from fraudops.registry.api import MlflowAnswerError
from tests.support.http_client import HTTP
from tests.support.mlflow_runs import API, delete_version, new_run, put


@pytest.fixture
def registry(mlflow_url: str) -> Iterator[Registry]:
    registry = Registry(mlflow_url, f"model-{uuid4().hex[:8]}")
    yield registry
    registry.close()


@pytest.fixture
def registered(registry: Registry, mlflow_url: str) -> ModelVersion:
    run = new_run(mlflow_url)
    put(mlflow_url, run, "bundle/bundle.json", b"{}")
    put(mlflow_url, run, "bundle/train_rows.npy", bytes(3_000_000))
    return registry.version(
        registry.create_version(run, {TAG_DIGEST: "d" * 64, TAG_SAMPLE: "true"})
    )


def test_a_model_that_does_not_exist_yet_has_no_versions_and_no_alias(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.alias("production") is None
    registry.delete_alias("production")


def test_create_version_makes_the_model_and_numbers_its_versions(
    registry: Registry, registered: ModelVersion, mlflow_url: str
) -> None:
    second = registry.create_version(new_run(mlflow_url), {})
    assert (registered.version, second) == ("1", "2")
    assert registered.digest == "d" * 64
    assert registered.tags[TAG_SAMPLE] == "true"
    assert registered.created_at.endswith("+00:00")
    assert [version.version for version in registry.versions()] == ["2", "1"]


def test_versions_are_ordered_by_number_and_read_through_every_page(
    registry: Registry, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.registry.versions.PAGE", 4)
    run = new_run(mlflow_url)
    for _ in range(11):
        registry.create_version(run, {})
    registry.set_tag("2", "touched", "last")
    assert [version.version for version in registry.versions()] == [
        str(number) for number in range(11, 0, -1)
    ]


@pytest.mark.parametrize("unknown", ["7", "seven", "", "1/../1", "-1"])
def test_an_unknown_version_is_refused_with_the_known_ones(
    registry: Registry, registered: ModelVersion, unknown: str
) -> None:
    with pytest.raises(UnknownVersionError, match="known are 1 "):
        registry.version(unknown)
    with pytest.raises(UnknownVersionError, match="known are 1 "):
        registry.set_tag(unknown, "key", "value")
    with pytest.raises(UnknownVersionError, match="known are 1 "):
        registry.set_alias("production", unknown)


def test_a_version_of_no_model_at_all_says_train_first(registry: Registry) -> None:
    with pytest.raises(UnknownVersionError, match="run `fraudops train`"):
        registry.version("1")


def test_an_alias_is_set_moved_and_deleted(
    registry: Registry, registered: ModelVersion, mlflow_url: str
) -> None:
    second = registry.create_version(new_run(mlflow_url), {})
    registry.set_alias("production", "1")
    assert registry.alias("production") == "1"
    registry.set_alias("production", second)
    registry.set_alias("champion", "1")
    assert registry.alias("production") == second
    assert {version.version: version.aliases for version in registry.versions()} == {
        "1": ("champion",),
        "2": ("production",),
    }
    assert registry.version("1").aliases == ("champion",)
    for _ in range(2):  # the second time it is missing
        registry.delete_alias("production")
        assert registry.alias("production") is None
    assert registry.alias("champion") == "1"


def test_a_deleted_version_no_longer_exists_and_takes_its_alias_along(
    registry: Registry, registered: ModelVersion, mlflow_url: str
) -> None:
    second = registry.create_version(new_run(mlflow_url), {})
    registry.set_alias("production", second)
    registry.set_alias("champion", "1")
    delete_version(mlflow_url, registry.model, second)
    assert [registry.exists(version) for version in ("1", second, "3", "", "one")] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert (registry.alias("production"), registry.alias("champion")) == (None, "1")
    with pytest.raises(UnknownVersionError, match="known are 1 "):
        registry.set_alias("production", second)
    registry.delete_alias("production")
    # Its number is not given to another version.
    assert registry.create_version(new_run(mlflow_url), {}) == "3"


def test_of_a_model_that_does_not_exist_no_version_exists(registry: Registry) -> None:
    assert not registry.exists("1")


def test_an_alias_that_mlflow_reserves_is_a_mistake_of_the_user(
    registry: Registry, registered: ModelVersion
) -> None:
    with pytest.raises(MlflowAnswerError, match="reserved") as caught:
        registry.set_alias("latest", "1")
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("broken", ["{", "[]", "", "null"])
def test_a_verdict_is_read_back_and_an_unreadable_one_counts_as_none(
    registry: Registry, registered: ModelVersion, broken: str
) -> None:
    registry.set_tag("1", TAG_VERDICT, '{"passed":true}')
    assert registry.version("1").verdict == {"passed": True}
    registry.set_tag("1", TAG_VERDICT, broken)
    assert registry.version("1").verdict is None
    # Any client of MLflow can set the tag. It must not end a promotion of another version.
    registry.set_tag("1", TAG_VERDICT, '{"a":' + "[" * 2400 + "]" * 2400 + "}")
    assert [version.verdict for version in registry.versions()] == [None]


def test_the_longest_tag_comes_back_whole_and_a_longer_one_is_refused(
    registry: Registry, registered: ModelVersion, mlflow_url: str
) -> None:
    registry.set_tag("1", "long", "x" * 5000)
    assert registry.version("1").tags["long"] == "x" * 5000
    with pytest.raises(SettingsError, match="5001 characters"):
        registry.set_tag("1", "long", "x" * 5001)
    with pytest.raises(SettingsError, match="5001 characters"):
        registry.create_version(new_run(mlflow_url), {"long": "x" * 5001})


def test_a_bundle_comes_back_byte_for_byte(
    registry: Registry, registered: ModelVersion, tmp_path: Path
) -> None:
    registry.download_bundle(registered, tmp_path / "bundle")
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == {
        "bundle.json": b"{}",
        "train_rows.npy": bytes(3_000_000),
    }


def manifest_bytes(folder: Path, _digest: str) -> bytes:
    """Return the bytes of `bundle.json`. Raises BundleError unless they are the registered ones."""
    content = (folder / "bundle.json").read_bytes()
    if content != b"{}":
        raise BundleError("bundle.json has been altered")
    return content


def no_registry() -> Registry:
    raise AssertionError("a good cached bundle needs no registry")


def cached_bundle(cache: Path, content: bytes) -> Path:
    folder = cache / ("d" * 64)
    folder.mkdir()
    (folder / "bundle.json").write_bytes(content)
    return folder


def test_a_good_cached_bundle_is_used_without_the_registry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached = cached_bundle(tmp_path, b"{}")
    with verified_bundle("1", "d" * 64, tmp_path, no_registry, manifest_bytes) as (folder, content):
        assert (folder, content) == (cached, b"{}")
    assert cached.is_dir()
    assert caplog.text == ""


def test_an_error_of_the_caller_does_not_cause_a_download(tmp_path: Path) -> None:
    cached_bundle(tmp_path, b"{}")
    with (
        pytest.raises(BundleError, match="no reference"),
        verified_bundle("1", "d" * 64, tmp_path, no_registry, manifest_bytes),
    ):
        raise BundleError("the bundle has no reference")


def test_a_bad_cached_bundle_is_logged_kept_and_downloaded_again(
    registry: Registry,
    registered: ModelVersion,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cached = cached_bundle(tmp_path, b"altered")
    with verified_bundle(
        registered.version, "d" * 64, tmp_path, lambda: registry, manifest_bytes
    ) as (folder, content):
        assert content == b"{}"
        assert folder != cached
    assert not folder.exists()
    assert (cached / "bundle.json").read_bytes() == b"altered"
    assert "dddddddddddd is bad and is downloaded again: bundle.json has been" in caplog.text


def test_a_bundle_that_is_bad_in_the_registry_too_is_refused(
    registry: Registry, registered: ModelVersion, mlflow_url: str, tmp_path: Path
) -> None:
    put(mlflow_url, registered.run_id, "bundle/bundle.json", b"altered")
    cached_bundle(tmp_path, b"altered")
    with (
        pytest.raises(BundleError, match="has been altered"),
        verified_bundle(registered.version, "d" * 64, tmp_path, lambda: registry, manifest_bytes),
    ):
        pass


def test_a_file_next_to_the_bundle_is_written_read_and_replaced(
    registry: Registry, registered: ModelVersion, tmp_path: Path
) -> None:
    name = "validation/test_scores.npz"
    assert registry.download(registered, name) is None
    registry.upload(registered, name, b"first")
    registry.upload(registered, name, b"\x00second")
    assert registry.download(registered, name) == b"\x00second"
    registry.download_bundle(registered, tmp_path)
    assert not (tmp_path / "validation").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../bundle/bundle.json",
        "/etc/passwd",
        "a//b",
        "..",
        "",
        "a/../../b",
        ".hidden",
        "a b",
        "a%2e%2e",
        "a\n",
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(
    registry: Registry, registered: ModelVersion, name: str
) -> None:
    with pytest.raises(SettingsError, match="artifact path"):
        registry.upload(registered, name, b"")
    with pytest.raises(SettingsError, match="artifact path"):
        registry.download(registered, name)


def test_a_version_without_files_says_so(
    registry: Registry, mlflow_url: str, tmp_path: Path
) -> None:
    version = registry.version(registry.create_version(new_run(mlflow_url), {}))
    with pytest.raises(BundleError, match="no file of this bundle"):
        registry.download_bundle(version, tmp_path)


def test_a_bundle_with_a_folder_inside_is_refused(
    registry: Registry, registered: ModelVersion, mlflow_url: str, tmp_path: Path
) -> None:
    put(mlflow_url, registered.run_id, "bundle/sub/x.json", b"{}")
    with pytest.raises(BundleError, match="not made by"):
        registry.download_bundle(registered, tmp_path)


def test_a_bundle_above_the_bounds_is_refused(
    registry: Registry, registered: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MAX_BUNDLE_BYTES", 2_000_000)
    with pytest.raises(BundleError, match="larger than"):
        registry.download_bundle(registered, tmp_path)
    assert (tmp_path / "train_rows.npy").stat().st_size <= 2_000_000
    monkeypatch.setattr(artifacts, "MAX_FILES", 1)
    with pytest.raises(BundleError, match="at most 1"):
        registry.download_bundle(registered, tmp_path)


def test_a_version_registered_by_hand_has_no_bundle(
    registry: Registry, registered: ModelVersion, mlflow_url: str, tmp_path: Path
) -> None:
    body = {
        "name": registry.model,
        "source": f"runs:/{registered.run_id}/model",
        "run_id": registered.run_id,
    }
    HTTP.post(f"{mlflow_url}{API}/mlflow/model-versions/create", json=body).raise_for_status()
    with pytest.raises(BundleError, match="not registered by"):
        registry.download_bundle(registry.version("2"), tmp_path)


def test_an_unknown_run_cannot_become_a_version(registry: Registry) -> None:
    with pytest.raises(SettingsError, match="not found"):
        registry.create_version("0" * 32, {})


def test_a_host_name_that_mlflow_does_not_allow_is_explained(mlflow_url: str) -> None:
    """127.1 is another spelling of 127.0.0.1, so the Host header is not in MLflow's list.

    The server's /health still answers 200.
    """
    port = mlflow_url.rpartition(":")[2]
    with pytest.raises(StoreDownError, match=f"--allowed-hosts 127.1:{port}"):
        Registry(f"http://127.1:{port}").versions()


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreDownError, match="does not answer") as caught:
        Registry(f"http://user:secret@127.0.0.1:{port}").versions()
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)


class Faulty(BaseHTTPRequestHandler):
    """Answers with the first part of the path: a status, or an incomplete file."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        body = b"<html>another product</html>"
        self.send_response(200 if kind == "short" else int(kind))
        self.send_header("content-length", str(len(body) + (100 if kind == "short" else 0)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def faulty_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Faulty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        *((status, f"fails with {status}") for status in ("500", "503", "429")),
        *((status, "not from MLflow's API") for status in ("200", "302", "404")),
        *((status, "credentials") for status in ("401", "403")),
        ("short", "does not answer"),
    ],
)
def test_an_unhealthy_server_is_a_store_that_is_down(faulty_url: str, kind: str, says: str) -> None:
    with pytest.raises(StoreDownError, match=says) as caught:
        Registry(f"{faulty_url}/{kind}").versions()
    assert caught.value.exit_code == 75


def test_an_incomplete_download_is_never_accepted(
    faulty_url: str, registered: ModelVersion
) -> None:
    with pytest.raises(StoreDownError, match="does not answer"):
        Registry(f"{faulty_url}/short").download(registered, "validation/test_scores.npz")


@pytest.mark.parametrize(
    "url", ["", "mlflow:5000", "sqlite:///mlflow.db", "http://", "http://host:port"]
)
def test_an_invalid_url_is_a_mistake_of_the_user(url: str) -> None:
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI"):
        Registry(url)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/1/artifacts",
        "/mnt/mlruns/1",
        "file:///mnt/1",
        "mlflow-artifacts:/0/../1",
        "mlflow-artifacts:/",
    ],
)
def test_only_files_behind_the_proxy_are_reached(uri: str) -> None:
    with pytest.raises(SettingsError):
        artifacts.proxied_path(uri)


def test_the_client_imports_nothing_heavy() -> None:
    heavy = "mlflow sklearn skops pandas scipy numpy evidently matplotlib pyarrow"
    code = (
        "import sys, fraudops.registry;"
        f" print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
