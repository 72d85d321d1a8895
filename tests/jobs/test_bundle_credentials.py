"""Jobs that open bundles verify the signed statements before, as pods do."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from fraudops.batch.model import BatchModels
from fraudops.errors import SignatureRefusedError
from fraudops.model.manifest import MANIFEST
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingRecord, ServingTarget
from fraudops.registry import Registry
from fraudops.registry.verdicts import store_signed
from fraudops.settings import BundleJobSettings
from fraudops.signing.credentials import AcceptedStatements, Credentials
from fraudops.signing.kept import keep
from fraudops.signing.key_files import ensure_key
from fraudops.signing.keys import new_key
from fraudops.signing.verdicts import SignedVerdict
from fraudops.state import State
from tests.support.bundles import write_linear_bundle
from tests.support.drift_site import DriftSite, bank, site_with
from tests.support.mlflow_runs import new_run, put
from tests.support.serving_records import record
from tests.support.signing import sign_bundle


@dataclass(frozen=True)
class Machine:
    """A state folder with keys and one cached bundle, that of version 1."""

    state: State
    digest: str

    @property
    def models(self) -> BatchModels:
        return BatchModels(BundleJobSettings(), self.state)

    def signed(self, version: str = "1", *, passed: bool = True) -> SignedVerdict:
        key = ensure_key(self.state.verdict_key, self.state.public_keys, "verdict")
        manifest = (self.state.bundles / self.digest / MANIFEST).read_bytes()
        return sign_bundle(manifest, version, key, passed=passed)

    def serve(self, credentials: Credentials) -> None:
        """Let version 1 serve with these credentials."""
        entry = record(ServingTarget(1, "1", self.digest)).current
        assert entry is not None
        current = msgspec.structs.replace(
            entry, signed_verdict=credentials.signed_verdict, unsigned=credentials.unsigned
        )
        store = FileRecordStore(self.state.serving_record)
        store.compare_and_set(ServingRecord(current=current), store.read()[1])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    state = State.at(tmp_path)
    digest = write_linear_bundle(state.bundles / "made")
    (state.bundles / "made").rename(state.bundles / digest)
    ensure_key(state.verdict_key, state.public_keys, "verdict")
    return Machine(state, digest)


def test_a_score_opens_a_version_that_the_record_shows_to_be_validated(machine: Machine) -> None:
    machine.serve(Credentials(signed_verdict=machine.signed()))
    assert machine.models.open("1", machine.digest).version == "1"
    machine.serve(Credentials(unsigned=True))
    assert machine.models.open("1", machine.digest).version == "1"


def test_a_score_opens_no_version_whose_verdict_is_forged(machine: Machine) -> None:
    machine.serve(Credentials(signed_verdict=machine.signed(passed=False)))
    with pytest.raises(SignatureRefusedError, match="did not pass validation"):
        machine.models.open("1", machine.digest)
    forged = machine.signed(passed=False)
    text = forged.verdict.replace('"passed":false', '"passed":true')
    machine.serve(Credentials(signed_verdict=msgspec.structs.replace(forged, verdict=text)))
    with pytest.raises(SignatureRefusedError, match="has been altered"):
        machine.models.open("1", machine.digest)


def test_a_score_takes_what_the_pod_has_kept_but_not_its_mark(machine: Machine) -> None:
    kept = Credentials(signed_verdict=machine.signed())
    keep(machine.state.bundles, "1", machine.digest, kept, AcceptedStatements())
    assert machine.models.open("1", machine.digest).version == "1"
    marked = Credentials(unsigned=True)
    keep(machine.state.bundles, "1", machine.digest, marked, AcceptedStatements())
    with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
        machine.models.open("1", machine.digest)


@pytest.mark.parametrize("signer", ["validate", "a foreign key", "no key"])
def test_a_score_of_a_version_that_never_served_asks_the_registry(
    machine: Machine, mlflow_url: str, monkeypatch: pytest.MonkeyPatch, signer: str
) -> None:
    model, run = f"score-{uuid4().hex[:8]}", new_run(mlflow_url)
    folder = machine.state.bundles / machine.digest
    for path in folder.iterdir():
        put(mlflow_url, run, f"bundle/{path.name}", path.read_bytes())
    with contextlib.closing(Registry(mlflow_url, model)) as registry:
        version = registry.version(registry.create_version(run, {}))
        if signer == "validate":
            store_signed(registry, version, machine.signed(version.version))
        elif signer == "a foreign key":
            manifest = (folder / MANIFEST).read_bytes()
            store_signed(registry, version, sign_bundle(manifest, version.version, new_key()))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    models = BatchModels(BundleJobSettings(model_name=model), machine.state)
    if signer == "validate":
        assert models.open(version.version, machine.digest).digest == machine.digest
    else:
        with pytest.raises(SignatureRefusedError):
            models.open(version.version, machine.digest)


def test_a_drift_scan_opens_no_version_without_a_signed_verdict(
    tmp_path: Path, database: str
) -> None:
    site: DriftSite = site_with(tmp_path, database, bank()[0])
    store = FileRecordStore(site.state.serving_record)
    held, token = store.read()
    assert held.current is not None
    copied = msgspec.structs.replace(held.current, version="4")
    store.compare_and_set(msgspec.structs.replace(held, current=copied), token)
    result = site.drift()
    assert isinstance(result.exception, SignatureRefusedError)
    assert "about version 3, not about version 4" in str(result.exception)
