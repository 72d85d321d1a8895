"""The pod's cache of bundles: a disk that fails, and credentials that come before the bundle."""

from pathlib import Path

import pytest

from fraudops.errors import BundleError, SignatureRefusedError, StoreDownError
from fraudops.model.manifest import MANIFEST
from fraudops.settings import InferenceSettings
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import kept_path
from fraudops.signing.key_files import ensure_key
from fraudops.state import State
from services.inference.pod.bundle_fetch import fetch_bundle
from tests.support.bundles import write_linear_bundle
from tests.support.signing import sign_bundle


@pytest.mark.parametrize("folder", ["bundles", "bundles/inside"])
def test_a_disk_that_fails_is_temporary_and_the_message_names_the_folder(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "bundles").write_text("a file where the folder should be")
    settings = InferenceSettings.model_construct()
    with pytest.raises(StoreDownError) as down:
        fetch_bundle(settings, tmp_path / folder, "7", "7" * 64)
    # Exit code 75 becomes the answer 503, which the promoter calls again until its deadline.
    assert down.value.exit_code == 75
    assert f"cannot be written to the cache ({tmp_path / folder}: " in str(down.value)
    assert "check the free space of the disk" in str(down.value)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Return a state folder with keys and without bundles."""
    made = State.at(tmp_path)
    ensure_key(made.verdict_key, made.public_keys, "verdict")
    return made


@pytest.fixture
def digest(state: State) -> str:
    """Return the digest of a bundle in the cache without credentials."""
    made = state.root / "made"
    digest = write_linear_bundle(made)
    state.bundles.mkdir()
    made.rename(state.bundles / digest)
    return digest


def proof(state: State, digest: str) -> Credentials:
    key = ensure_key(state.verdict_key, state.public_keys, "verdict")
    manifest = (state.bundles / digest / MANIFEST).read_bytes()
    return Credentials(signed_verdict=sign_bundle(manifest, "7", key))


def test_the_credentials_are_verified_before_any_file_of_the_bundle(
    state: State, digest: str
) -> None:
    settings, signed = InferenceSettings(state=state.root), proof(state, digest)
    altered = state.bundles / digest / "scorer.json"
    altered.write_text("altered")
    with pytest.raises(SignatureRefusedError):
        fetch_bundle(settings, state.bundles, "7", digest, fetch=False)
    # Nothing has looked at the bundle: with valid credentials it leaves the cache.
    assert altered.exists()
    assert not kept_path(state.bundles, digest).exists()
    with pytest.raises(BundleError, match=r"scorer\.json has been altered"):
        fetch_bundle(settings, state.bundles, "7", digest, credentials=[signed], fetch=False)
    assert not altered.exists()


def test_a_kept_mark_counts_only_while_the_record_cannot_be_read(state: State, digest: str) -> None:
    settings, marked = InferenceSettings(state=state.root), [Credentials(unsigned=True)]
    assert fetch_bundle(settings, state.bundles, "7", digest, credentials=marked) == "cache"
    assert fetch_bundle(settings, state.bundles, "7", digest, credentials=None) == "cache"
    with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
        fetch_bundle(settings, state.bundles, "7", digest, credentials=[])


def test_kept_statements_count_with_and_without_the_record(state: State, digest: str) -> None:
    settings, signed = InferenceSettings(state=state.root), proof(state, digest)
    assert fetch_bundle(settings, state.bundles, "7", digest, credentials=[signed]) == "cache"
    for credentials in (None, []):
        assert (
            fetch_bundle(settings, state.bundles, "7", digest, credentials=credentials) == "cache"
        )


def test_what_a_killed_verification_has_left_is_removed(state: State, digest: str) -> None:
    left = state.bundles / f".{digest}.credentials.json.host-1.tmp"
    left.touch()
    (state.bundles / ".incoming-x").mkdir()
    settings, signed = InferenceSettings(state=state.root), proof(state, digest)
    fetch_bundle(settings, state.bundles, "7", digest, credentials=[signed])
    names = {path.name for path in state.bundles.iterdir()}
    assert names == {digest, kept_path(state.bundles, digest).name}
