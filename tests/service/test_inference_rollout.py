"""A pod that a rollout has made: it obeys its template while the record says the same, and never
stays unready for it.
"""

from pathlib import Path

import msgspec
import pytest

from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import Reservation, commit, release
from tests.support.http_client import HTTP
from tests.support.serving import Service
from tests.support.waiting import eventually

SERVES, WANTED = 1, 2


def made_for(root: Path, digest: str, reserved: str | None = None) -> Service:
    """A newborn whose template names epoch 2, while version 1 serves in epoch 1 and `reserved` is
    reserved for epoch 2.
    """
    service = Service(root, workers=1, environment={"FRAUDOPS_ROLLOUT": f"2/{WANTED}/{digest}"})
    service.record(str(SERVES), service.bundle(SERVES))
    if reserved:
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        wanted = Reservation(
            epoch=2,
            version=str(WANTED),
            digest=reserved,
            schema_fingerprint="f",
            strategy="rollout",
            by="a test",
            at="now",
            verdict={},
        )
        store.compare_and_set(
            msgspec.structs.replace(record, reserved=wanted, highest_reserved=2), token
        )
    return service


def served(service: Service) -> tuple[int, str, str | None]:
    eventually(service.ready)
    info = HTTP.get(f"{service.url}/model_info").json()
    return info["model"]["epoch"], info["model"]["version"], info["errors"].get("epoch")


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """Of the version that the rollout brings, whose bundle only some pods can load."""
    return Service(tmp_path / "other").bundle(WANTED)


def test_it_serves_what_the_record_has_reserved_for_it(tmp_path: Path, digest: str) -> None:
    service = made_for(tmp_path / "pod", digest, reserved=digest)
    service.bundle(WANTED)
    service.start()
    try:
        assert served(service) == (2, "2", None)
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        store.compare_and_set(commit(record), token)
        assert service.reload(phase="commit", epoch=2).status_code == 200
        assert served(service) == (2, "2", None)
    finally:
        service.stop()


def test_it_serves_what_serves_elsewhere_when_it_cannot_load_its_own_and_says_so(
    tmp_path: Path, digest: str
) -> None:
    service = made_for(tmp_path / "pod", digest, reserved=digest).start()
    try:
        epoch, version, error = served(service)
        assert (epoch, version) == (1, "1")
        assert error is not None
        assert error.startswith("the rollout's version was refused, this pod serves the record's")
    finally:
        service.stop()


@pytest.mark.parametrize("reserved", [None, "0" * 64], ids=["nothing", "another model"])
def test_it_follows_the_record_when_that_has_not_reserved_the_same(
    tmp_path: Path, digest: str, reserved: str | None
) -> None:
    service = made_for(tmp_path / "pod", digest, reserved)
    service.bundle(WANTED)
    service.start()
    try:
        assert served(service) == (1, "1", None)
    finally:
        service.stop()


def test_after_an_undone_rollout_it_reports_that_it_is_ahead(tmp_path: Path, digest: str) -> None:
    service = made_for(tmp_path / "pod", digest, reserved=digest)
    service.bundle(WANTED)
    service.start()
    try:
        assert served(service) == (2, "2", None)
        store = FileRecordStore(service.state.serving_record)
        record, token = store.read()
        store.compare_and_set(release(record), token)

        def told() -> None:
            epoch, version, error = served(service)
            assert (epoch, version) == (2, "2")
            assert error is not None

        eventually(told)
    finally:
        service.stop()
