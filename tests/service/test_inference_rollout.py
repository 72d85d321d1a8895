"""A pod that a rollout created: it follows its template only while the record agrees."""

from pathlib import Path

import msgspec
import pytest

from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import commit
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import Reservation, release
from tests.support.http_client import HTTP
from tests.support.serving import Service
from tests.support.waiting import eventually

SERVES, NEXT = 1, 2


def created_for(root: Path, digest: str, reserved: str | None = None) -> Service:
    """Return a pod whose template names `digest` for epoch 2, not started yet.

    Version 1 serves in epoch 1. The record reserves epoch 2 for the digest `reserved`, if any.
    """
    service = Service(root, workers=1, environment={"FRAUDOPS_ROLLOUT": f"2/{NEXT}/{digest}"})
    service.record(str(SERVES), service.bundle(SERVES))
    if reserved:
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        reservation = Reservation(
            epoch=2,
            version=str(NEXT),
            digest=reserved,
            schema_fingerprint="f",
            strategy="rollout",
            by="a test",
            act="promote",
            at="now",
            verdict={},
        )
        store.compare_and_set(
            msgspec.structs.replace(record, reserved=reservation, highest_reserved=2), token
        )
    return service


def served(service: Service) -> tuple[int, str, str | None]:
    eventually(service.ready)
    info = HTTP.get(f"{service.url}/model_info").json()
    return info["model"]["epoch"], info["model"]["version"], info["errors"].get("epoch")


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """Return the digest of the rollout's version; no pod has its bundle yet."""
    return Service(tmp_path / "other").bundle(NEXT)


def test_a_new_pod_serves_the_version_that_the_record_has_reserved(
    tmp_path: Path, digest: str
) -> None:
    service = created_for(tmp_path / "pod", digest, reserved=digest)
    service.bundle(NEXT)
    service.start()
    try:
        assert served(service) == (2, "2", None)
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        attempt = Attempt(request="a test", requested_by="a test", at="now")
        store.compare_and_set(commit(record, attempt), token)
        assert service.reload(phase="commit", epoch=2).status_code == 200
        assert served(service) == (2, "2", None)
    finally:
        service.stop()


def test_a_new_pod_that_cannot_load_its_own_version_serves_the_current_one_and_says_so(
    tmp_path: Path, digest: str
) -> None:
    service = created_for(tmp_path / "pod", digest, reserved=digest).start()
    try:
        epoch, version, error = served(service)
        assert (epoch, version) == (1, "1")
        assert error is not None
        assert error.startswith("the rollout's version was refused, this pod serves the record's")
    finally:
        service.stop()


@pytest.mark.parametrize("reserved", [None, "0" * 64], ids=["nothing", "another model"])
def test_a_new_pod_follows_the_record_if_that_has_not_reserved_its_version(
    tmp_path: Path, digest: str, reserved: str | None
) -> None:
    service = created_for(tmp_path / "pod", digest, reserved)
    service.bundle(NEXT)
    service.start()
    try:
        assert served(service) == (1, "1", None)
    finally:
        service.stop()


def test_a_new_pod_reports_after_an_undone_rollout_that_it_is_ahead(
    tmp_path: Path, digest: str
) -> None:
    service = created_for(tmp_path / "pod", digest, reserved=digest)
    service.bundle(NEXT)
    service.start()
    try:
        assert served(service) == (2, "2", None)
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        store.compare_and_set(release(record), token)

        def reported() -> None:
            epoch, version, error = served(service)
            assert (epoch, version) == (2, "2")
            assert error is not None

        eventually(reported)
    finally:
        service.stop()
