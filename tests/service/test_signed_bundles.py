"""A real pod opens only bundles whose signed statements it has verified.

The record's display field says `passed: true` in every case, as a forged tag of MLflow would.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from fraudops.model.manifest import MANIFEST
from fraudops.model.scorer import SCORER
from fraudops.promotion.local import FileRecordStore
from fraudops.registry import Registry
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import kept_path
from fraudops.signing.key_files import ensure_key, rotate_key
from fraudops.signing.keys import new_key
from fraudops.signing.waivers import sign_waiver
from tests.support.bundles import write_linear_bundle
from tests.support.http_client import HTTP
from tests.support.mlflow_runs import new_run, put
from tests.support.serving import Service, problem
from tests.support.signing import WAIVER, sign_bundle
from tests.support.small_bundles import MAX_BUNDLE_BYTES
from tests.support.waiting import eventually

Attack = Callable[[Service, str, str], Credentials]
REFUSED = 'fraudops_bundles_refused_total{reason="%s"}'


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a pod that serves version 1 in epoch 1 through all attacks."""
    service = Service(tmp_path_factory.mktemp("pod"), workers=1)
    ensure_key(service.state.waiver_key, service.state.public_keys, "waiver")
    yield service.promoted(1)
    service.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """Yield a service that the test starts and changes."""
    service = Service(tmp_path / "state", workers=1)
    ensure_key(service.state.waiver_key, service.state.public_keys, "waiver")
    yield service
    if service.process and service.process.poll() is None:
        service.stop()


def manifest_of(service: Service, digest: str) -> bytes:
    return (service.state.bundles / digest / MANIFEST).read_bytes()


def unknown_bundle(service: Service, seed: int) -> str:
    """Put a bundle into the cache whose credentials the pod has not seen."""
    digest = service.bundle(seed)
    kept_path(service.state.bundles, digest).unlink()
    return digest


def verdict(service: Service, version: str, digest: str, *, passed: bool) -> Credentials:
    signed = sign_bundle(manifest_of(service, digest), version, service.key, passed=passed)
    return Credentials(signed_verdict=signed)


def waiver(service: Service, version: str, digest: str) -> str:
    """Sign a waiver that has expired long ago, as that of a version that serves has."""
    key = ensure_key(service.state.waiver_key, service.state.public_keys, "waiver")
    content = msgspec.structs.replace(
        WAIVER, version=version, digest=digest, expires_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
    return sign_waiver(content, key)


def edited_payload(bundle: str, old: bytes, new: bytes) -> str:
    """Return a sigstore bundle with an edited statement under the same signature."""
    content = json.loads(bundle)
    payload = base64.b64decode(content["dsseEnvelope"]["payload"])
    assert old in payload
    content["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    return json.dumps(content)


def forged_tag(_pod: Service, _version: str, _digest: str) -> Credentials:
    return Credentials()


def failed_verdict(pod: Service, version: str, digest: str) -> Credentials:
    return verdict(pod, version, digest, passed=False)


def edited_verdict(pod: Service, version: str, digest: str) -> Credentials:
    signed = verdict(pod, version, digest, passed=False).signed_verdict
    assert signed is not None
    text = signed.verdict.replace('"passed":false', '"passed":true')
    assert text != signed.verdict
    return Credentials(signed_verdict=msgspec.structs.replace(signed, verdict=text))


def copied_verdict(pod: Service, version: str, _digest: str) -> Credentials:
    return verdict(pod, version, pod.bundle(1), passed=True)


def verdict_by_an_unknown_key(pod: Service, version: str, digest: str) -> Credentials:
    return Credentials(signed_verdict=sign_bundle(manifest_of(pod, digest), version, new_key()))


def edited_waiver(pod: Service, version: str, digest: str) -> Credentials:
    edited = edited_payload(
        waiver(pod, version, pod.bundle(1)), pod.bundle(1).encode(), digest.encode()
    )
    return msgspec.structs.replace(failed_verdict(pod, version, digest), signed_waiver=edited)


def waiver_of_another_version(pod: Service, version: str, digest: str) -> Credentials:
    replayed = waiver(pod, "1", digest)
    return msgspec.structs.replace(failed_verdict(pod, version, digest), signed_waiver=replayed)


def waiver_by_the_verdict_key(pod: Service, version: str, digest: str) -> Credentials:
    content = msgspec.structs.replace(WAIVER, version=version, digest=digest)
    return Credentials(signed_waiver=sign_waiver(content, pod.key))


ATTACKS: list[tuple[Attack, str]] = [
    (forged_tag, "has no signed verdict"),
    (failed_verdict, "did not pass validation"),
    (edited_verdict, "verdict.json has been altered"),
    (copied_verdict, "it is about the bundle"),
    (verdict_by_an_unknown_key, "which this release does not trust"),
    (edited_waiver, "its signature does not fit, so it has been altered"),
    (waiver_of_another_version, "it is for version 1"),
    (waiver_by_the_verdict_key, "which this release does not trust"),
]


@pytest.mark.parametrize(
    ("seed", "attack", "reason"),
    [(100 + index, *attack) for index, attack in enumerate(ATTACKS)],
    ids=[attack.__name__ for attack, _ in ATTACKS],
)
def test_a_bundle_without_valid_statements_is_refused_and_the_old_version_serves_on(
    pod: Service, seed: int, attack: Attack, reason: str
) -> None:
    digest, version = unknown_bundle(pod, seed), str(seed)
    before = pod.metrics()[REFUSED % "signature"]
    epoch = pod.record(version, digest, credentials=attack(pod, version, digest))
    prepared = pod.reload(phase="prepare", version=version, digest=digest, epoch=epoch)
    assert (prepared.status_code, reason in problem(prepared)["detail"]) == (409, True)
    activated = pod.reload(phase="commit", epoch=epoch)
    assert (activated.status_code, reason in problem(activated)["detail"]) == (409, True)
    eventually(lambda: assert_reported(pod, reason))
    assert reason in pod.log
    assert pod.metrics()[REFUSED % "signature"] >= before + 2
    # The bundle is not opened, so it stays in the cache. Its statements may come later.
    assert (pod.state.bundles / digest).is_dir()
    assert pod.ready()["version"] == "1"
    assert pod.predict().json()["model_version"] == "1"


def test_the_verdict_of_a_version_does_not_count_for_another_with_the_same_bundle(
    pod: Service,
) -> None:
    """The pod has verified this bundle before, and serves it."""
    version, digest = pod.ready()["version"], pod.bundle(1)
    epoch = pod.record("99", digest, credentials=verdict(pod, version, digest, passed=True))
    answer = pod.reload(phase="commit", epoch=epoch)
    reason = "it is about version 1, not about version 99"
    assert (answer.status_code, reason in problem(answer)["detail"]) == (409, True)
    assert pod.predict().json()["model_version"] == version


def assert_reported(service: Service, reason: str) -> None:
    assert reason in model_info(service)["errors"]["epoch"]


def model_info(service: Service) -> dict[str, Any]:
    return dict(HTTP.get(f"{service.url}/model_info").json())


def start_with_registry(
    service: Service, mlflow_url: str, changed: dict[str, bytes]
) -> tuple[str, str, int]:
    """Serve version 0, and reserve a version whose registered files were changed.

    Returns version, digest and epoch of the reservation.
    """
    made = service.root / "made"
    digest = write_linear_bundle(made, seed=2)
    model = f"changed-{uuid4().hex[:8]}"
    run = new_run(mlflow_url)
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    for name, data in (files | changed).items():
        put(mlflow_url, run, f"bundle/{name}", data)
    with contextlib.closing(Registry(mlflow_url, model)) as registry:
        version = registry.create_version(run, {})
    service.environment = {"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": model}
    service.record("0", service.bundle(1))
    service.start()
    eventually(service.ready)
    signed = service.signed_verdict(version, files[MANIFEST])
    epoch = service.record(version, digest, credentials=Credentials(signed_verdict=signed))
    return version, digest, epoch


@pytest.mark.parametrize(
    ("size", "reason"),
    [(100, "has been altered"), (MAX_BUNDLE_BYTES + 1, "is larger than the")],
)
def test_a_file_that_was_swapped_in_the_registry_is_refused(
    own: Service, mlflow_url: str, size: int, reason: str
) -> None:
    own.program = ("tests.support.small_bundles", "services.inference")
    changed = {SCORER: bytes(size)}
    version, digest, epoch = start_with_registry(own, mlflow_url, changed)
    answer = own.reload(phase="prepare", version=version, digest=digest, epoch=epoch)
    assert (answer.status_code, f"{SCORER} {reason}" in problem(answer)["detail"]) == (409, True)
    assert own.metrics()[REFUSED % "bundle"] >= 1
    assert own.predict().json()["model_version"] == "0"
    folders = [path.name for path in own.state.bundles.iterdir() if path.is_dir()]
    assert folders == [own.bundle(1)]


def test_a_file_more_in_the_registry_is_not_downloaded(own: Service, mlflow_url: str) -> None:
    changed = {"aaa.bin": b"junk", "sub/x.bin": b"junk"}
    version, digest, epoch = start_with_registry(own, mlflow_url, changed)
    answer = own.reload(phase="commit", epoch=epoch)
    assert (answer.status_code, own.predict().json()["model_version"]) == (200, version)
    cached = {path.name for path in (own.state.bundles / digest).iterdir()}
    assert cached == {path.name for path in (own.root / "made").iterdir()}


def test_a_valid_waiver_lets_a_failed_version_serve_and_model_info_names_it(own: Service) -> None:
    digest = unknown_bundle(own, 2)
    failed = verdict(own, "2", digest, passed=False)
    waived = msgspec.structs.replace(failed, signed_waiver=waiver(own, "2", digest))
    own.record("2", digest, credentials=waived)
    own.start()
    eventually(own.ready)
    assert model_info(own)["model"]["credentials"] == {
        "state": "waived",
        "signer": own.key.public.id,
        "waived_by": "bob",
        "waiver_reason": "the gate is too strict",
    }


def test_a_start_verifies_from_the_cache_while_the_record_cannot_be_read(own: Service) -> None:
    digest = unknown_bundle(own, 1)
    own.record("1", digest)
    own.start()
    eventually(own.ready)
    own.stop()
    own.state.serving_record.write_text("{")
    own.start()
    assert eventually(own.ready, 30)["version"] == "1"
    shown = model_info(own)["model"]["credentials"]
    assert (shown["state"], shown["signer"]) == ("signed", own.key.public.id)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("altered", "verdict.json has been altered"), ("missing", "has no signed verdict")],
)
def test_a_start_believes_no_cache_without_valid_statements(
    own: Service, damage: str, reason: str
) -> None:
    own.promoted(1)
    own.stop()
    own.state.serving_record.write_text("{")
    kept = kept_path(own.state.bundles, own.bundle(1))
    if damage == "missing":
        kept.unlink()
    else:
        good = kept.read_bytes()
        kept.write_bytes(good.replace(b'\\"passed\\":true', b'\\"passed\\":true '))
        assert kept.read_bytes() != good
    own.start()
    assert reason in eventually(own.not_ready)
    assert problem(own.predict())["status"] == 503


def as_release_0_2_0(service: Service) -> None:
    """Write the record as release 0.2.0 did: without a format, acts, and signed verdicts."""
    path = service.state.serving_record
    record = json.loads(path.read_bytes())
    del record["format"], record["current"]["act"]
    path.write_text(json.dumps(record))


def test_an_entry_from_before_signatures_serves_and_model_info_says_so(own: Service) -> None:
    digest = unknown_bundle(own, 1)
    own.record("1", digest, credentials=Credentials())
    as_release_0_2_0(own)
    own.start()
    eventually(own.ready)
    shown = model_info(own)["model"]["credentials"]
    assert (shown["state"], shown["signer"]) == ("unsigned, from before", None)
    # The mark is kept too: this pod restarts while the record cannot be read.
    good = own.state.serving_record.read_bytes()
    own.stop()
    own.state.serving_record.write_text("{")
    own.start()
    eventually(own.ready, 30)
    own.stop()
    # A record that can be read and has no mark makes the kept one void.
    own.state.serving_record.write_bytes(good)
    store = FileRecordStore(own.state.serving_record)
    record, token = store.read()
    assert record.current is not None
    current = msgspec.structs.replace(record.current, unsigned=False)
    store.compare_and_set(msgspec.structs.replace(record, current=current), token)
    own.start()
    assert "has no signed verdict" in eventually(own.not_ready)


def test_keys_change_without_a_restart_and_a_retired_key_is_refused(own: Service) -> None:
    own.promoted(1)
    old = own.key
    epoch = own.record("2", unknown_bundle(own, 2))
    assert own.reload(phase="commit", epoch=epoch).status_code == 200
    first = own.bundle(1)
    rotate_key(own.state.verdict_key, own.state.public_keys, "verdict")
    epoch = own.record("3", unknown_bundle(own, 3))
    assert own.reload(phase="commit", epoch=epoch).status_code == 200
    for path in own.state.public_keys.glob("verdict*.pem"):
        if path.read_bytes() == old.public.pem:
            path.unlink()
    # The pod has verified this bundle before, with the key that is no longer valid.
    signed = sign_bundle(manifest_of(own, first), "1", old)
    epoch = own.record("1", first, credentials=Credentials(signed_verdict=signed))
    kept_path(own.state.bundles, first).unlink()
    answer = own.reload(phase="commit", epoch=epoch)
    assert (answer.status_code, "does not trust" in problem(answer)["detail"]) == (409, True)
    assert own.predict().json()["model_version"] == "3"


def test_a_service_without_public_keys_ends_with_64_and_names_the_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.inference"],
        env={"PATH": os.environ["PATH"], "FRAUDOPS_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 64
    assert f"{tmp_path / 'keys' / 'public'} holds no file verdict*.pem" in done.stderr
    assert "set FRAUDOPS_SIGNING__PUBLIC_KEYS" in done.stderr
