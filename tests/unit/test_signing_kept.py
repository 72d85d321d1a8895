"""The credentials that a pod keeps next to a cached bundle, and how it chooses among several."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fraudops.errors import SettingsError, SignatureRefusedError
from fraudops.extensible import encode_document
from fraudops.signing.credentials import AcceptedStatements, Credentials
from fraudops.signing.kept import (
    KeptCredentials,
    fingerprint,
    first_accepted,
    keep,
    kept_path,
    read_kept,
    require_keys,
    trusted_keys,
    without_mark,
)
from fraudops.signing.waivers import sign_waiver
from tests.support.signing import DIGEST, VERDICT, WAIVER, Signers


@pytest.fixture(scope="module")
def signers() -> Signers:
    return Signers.new()


@pytest.fixture(scope="module")
def signed(signers: Signers) -> Credentials:
    return Credentials(signed_verdict=signers.signed_verdict())


def test_the_first_credentials_that_are_accepted_count(
    signers: Signers, signed: Credentials
) -> None:
    other = Credentials(signed_verdict=Signers.new().signed_verdict())
    found, accepted = first_accepted([other, signed], "7", DIGEST, signers.public)
    assert (found, accepted) == (signed, AcceptedStatements(verdict=accepted.verdict))
    assert accepted.signer == signers.verdict.public.id


def test_a_refusal_gives_the_reason_for_the_first_credentials(
    signers: Signers, signed: Credentials
) -> None:
    with pytest.raises(SignatureRefusedError, match="about version 7, not about version 8"):
        first_accepted([signed, Credentials()], "8", DIGEST, signers.public)
    with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
        first_accepted([], "7", DIGEST, signers.public)


def test_what_was_accepted_is_kept_with_what_it_says(
    tmp_path: Path, signers: Signers, signed: Credentials
) -> None:
    failed = msgspec.structs.replace(VERDICT, passed=False)
    waived = Credentials(
        signed_verdict=signers.signed_verdict(failed),
        signed_waiver=sign_waiver(WAIVER, signers.waiver),
    )
    assert read_kept(tmp_path, DIGEST) is None
    for credentials in (signed, waived):
        found, accepted = first_accepted([credentials], "7", DIGEST, signers.public)
        keep(tmp_path, "7", DIGEST, found, accepted)
        kept = read_kept(tmp_path, DIGEST)
        assert kept is not None
        assert (kept.version, kept.signer) == ("7", signers.verdict.public.id)
        assert without_mark(kept) == credentials
    assert (kept.waived_by, kept.waiver_reason) == ("bob", "the gate is too strict")
    assert [path.name for path in tmp_path.iterdir()] == [f"{DIGEST}.credentials.json"]


def test_the_file_is_written_only_if_it_changes(
    tmp_path: Path, signers: Signers, signed: Credentials
) -> None:
    found, accepted = first_accepted([signed], "7", DIGEST, signers.public)
    keep(tmp_path, "7", DIGEST, found, accepted)
    before = kept_path(tmp_path, DIGEST).stat().st_ino
    keep(tmp_path, "7", DIGEST, found, accepted)
    assert kept_path(tmp_path, DIGEST).stat().st_ino == before


def test_a_damaged_file_is_no_file_and_a_later_field_is_read(tmp_path: Path) -> None:
    path = kept_path(tmp_path, DIGEST)
    path.write_bytes(b'{"version":"7","later":1}')
    assert read_kept(tmp_path, DIGEST) == KeptCredentials(version="7", unknown={"later": 1})
    for damage in (b"", b"{", b"[]", b'{"signer":"x"}'):
        path.write_bytes(damage)
        assert read_kept(tmp_path, DIGEST) is None


def test_a_mark_goes_and_the_statements_stay(signed: Credentials) -> None:
    marked = msgspec.structs.replace(signed, signed_waiver="w", unsigned=True)
    assert without_mark(marked) == msgspec.structs.replace(marked, unsigned=False)
    assert b"unsigned" not in encode_document(without_mark(marked))


def test_keys_that_cannot_be_read_refuse_every_statement(tmp_path: Path, signers: Signers) -> None:
    with pytest.raises(SignatureRefusedError, match=r"no signature can be verified: .*cannot be"):
        trusted_keys(tmp_path / "missing")
    assert trusted_keys(signers.write_public(tmp_path / "keys")) == signers.public


def test_a_start_needs_a_verdict_key(tmp_path: Path, signers: Signers) -> None:
    folder = signers.write_public(tmp_path / "keys")
    require_keys(folder)
    for path in folder.glob("verdict*"):
        path.unlink()
    for without in (folder, tmp_path / "missing"):
        with pytest.raises(SettingsError, match=r"holds no file verdict\*\.pem") as refused:
            require_keys(without)
        assert str(without) in str(refused.value)


def test_the_fingerprint_of_the_keys_changes_with_each_change(
    tmp_path: Path, signers: Signers
) -> None:
    assert fingerprint(tmp_path / "missing") == ""
    folder = signers.write_public(tmp_path / "keys")
    seen = [fingerprint(folder)]
    (folder / "verdict-new.pem").write_bytes(Signers.new().verdict.public.pem)
    seen.append(fingerprint(folder))
    (folder / "verdict-new.pem").write_bytes(Signers.new().verdict.public.pem)
    seen.append(fingerprint(folder))
    (folder / "verdict-new.pem").rename(folder / "verdict-newer.pem")
    seen.append(fingerprint(folder))
    assert len(set(seen)) == len(seen)
    (folder / "verdict-newer.pem").unlink()
    (folder / "a note").touch()
    assert fingerprint(folder) == seen[0]


def test_the_check_at_a_start_imports_no_cryptography() -> None:
    code = "import sys, fraudops.signing.kept; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
