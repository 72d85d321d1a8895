"""The public tool `model_signing` accepts and refuses the same signed verdicts as fraudops.

`make lock` does not write model_signing.lock. Its head says how to make it again.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudops.canonical import sha256_file
from fraudops.errors import SignatureRefusedError
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import (
    BUNDLE_FILE,
    SIGNATURE_FILE,
    VERDICT_FILE,
    SignedVerdict,
    check_verdict,
)
from tests.support.environments import installed_programs
from tests.support.signing import DIGEST, MANIFEST, Signers

LOCK = Path(__file__).with_name("model_signing.lock")
SIGNERS = Signers.new()
KEYS = SIGNERS.public
Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tool() -> Tool:
    program = installed_programs(LOCK) / "model_signing"

    def run(verb: str, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        signature = ["--signature", str(folder / SIGNATURE_FILE)]
        return subprocess.run(
            [program, verb, "key", str(folder), *signature, *options],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the files of a verdict that fraudops signed."""
    folder = tmp_path / "version-7"
    folder.mkdir()
    signed = SIGNERS.signed_verdict()
    (folder / BUNDLE_FILE).write_bytes(MANIFEST)
    (folder / VERDICT_FILE).write_text(signed.verdict)
    (folder / SIGNATURE_FILE).write_text(signed.signature)
    return folder


@pytest.fixture
def public(tmp_path: Path) -> str:
    path = tmp_path / "verdict.pem"
    path.write_bytes(SIGNERS.verdict.public.pem)
    return str(path)


def signed_in(folder: Path) -> SignedVerdict:
    return SignedVerdict(
        verdict=(folder / VERDICT_FILE).read_text(),
        signature=(folder / SIGNATURE_FILE).read_text(),
    )


def digest_of(folder: Path) -> str:
    return sha256_file(folder / BUNDLE_FILE)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # In the middle: a signature holds its payload there.
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_tool_accepts_a_verdict_that_fraudops_signed(
    tool: Tool, folder: Path, public: str
) -> None:
    done = tool("verify", folder, "--public_key", public)
    assert done.returncode == 0, done.stderr
    assert "Verification succeeded" in done.stdout
    # Otherwise the tool prints that the signature has an older form.
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", [BUNDLE_FILE, VERDICT_FILE, SIGNATURE_FILE])
def test_both_refuse_an_altered_byte(tool: Tool, folder: Path, public: str, name: str) -> None:
    flip_a_byte(folder / name)
    done = tool("verify", folder, "--public_key", public)
    assert done.returncode != 0
    assert "Verification failed" in done.stderr
    with pytest.raises(SignatureRefusedError):
        check_verdict(signed_in(folder), digest_of(folder), KEYS)


def test_both_refuse_another_key(tool: Tool, folder: Path, tmp_path: Path) -> None:
    other = Signers.new()
    path = tmp_path / "other.pem"
    path.write_bytes(other.verdict.public.pem)
    done = tool("verify", folder, "--public_key", str(path))
    assert done.returncode != 0
    assert "Key mismatch" in done.stderr
    with pytest.raises(SignatureRefusedError, match="does not trust"):
        check_verdict(signed_in(folder), DIGEST, other.public)


def test_fraudops_accepts_a_verdict_that_the_tool_signed(
    tool: Tool, folder: Path, tmp_path: Path
) -> None:
    expected = check_verdict(signed_in(folder), DIGEST, KEYS)
    private = tmp_path / "private.pem"
    private.write_bytes(SIGNERS.verdict.pem())
    ours = (folder / SIGNATURE_FILE).read_text()
    (folder / SIGNATURE_FILE).unlink()
    done = tool("sign", folder, "--private_key", str(private))
    assert done.returncode == 0, done.stderr
    theirs = signed_in(folder)
    assert theirs.signature != ours
    assert check_verdict(theirs, DIGEST, KEYS) == expected
    with pytest.raises(SignatureRefusedError, match="does not trust"):
        check_verdict(theirs, DIGEST, PublicKeys((SIGNERS.waiver.public,)))
    for name in (BUNDLE_FILE, VERDICT_FILE, SIGNATURE_FILE):
        kept = (folder / name).read_bytes()
        flip_a_byte(folder / name)
        with pytest.raises(SignatureRefusedError):
            check_verdict(signed_in(folder), digest_of(folder), KEYS)
        (folder / name).write_bytes(kept)
