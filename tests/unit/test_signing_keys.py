"""Keys of signatures: which files are accepted, and what a refusal reveals."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fraudops.canonical import sha256_bytes
from fraudops.errors import SettingsError
from fraudops.signing.key_files import ensure_key, rotate_key
from fraudops.signing.keys import (
    PrivateKey,
    PublicKeys,
    new_key,
    public_file,
    read_private_key,
    read_public_key,
)
from tests.support.signing import Signers

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
OPEN = serialization.NoEncryption()
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture
def key() -> PrivateKey:
    return new_key()


@pytest.fixture
def private(tmp_path: Path, key: PrivateKey) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(key.pem())
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Signers.new().write_public(tmp_path / "public")


def test_a_private_key_survives_its_file(private: Path, key: PrivateKey) -> None:
    signature = read_private_key(private).sign(b"data")
    assert key.public.has_signed(b"data", signature)
    assert not key.public.has_signed(b"date", signature)
    assert not new_key().public.has_signed(b"data", signature)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_private_key_that_other_users_can_use_is_refused(private: Path, mode: int) -> None:
    private.chmod(mode)
    with pytest.raises(SettingsError, match=rf"\(mode 0{mode:o}\)\. Run `chmod 600 ") as refused:
        read_private_key(private)
    assert str(private) in str(refused.value)
    private.chmod(0o400)
    read_private_key(private)


def test_a_private_key_of_a_mounted_secret_may_be_read_by_its_group(
    private: Path, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    private.chmod(0o440)
    # The file of a Secret belongs to root, and the program in the pod is another user.
    monkeypatch.setattr("os.getuid", lambda: private.stat().st_uid + 1)
    assert read_private_key(private).public == key.public


@pytest.mark.parametrize("signature", [b"", b"0", bytes(64), b"\x30\x06\x02\x01\x00\x02\x01\x00"])
def test_a_signature_of_any_other_form_is_none(key: PrivateKey, signature: bytes) -> None:
    assert not key.public.has_signed(b"data", signature)


def test_the_id_is_the_sha256_of_the_public_file(key: PrivateKey, tmp_path: Path) -> None:
    path = tmp_path / "verdict.pem"
    path.write_bytes(key.public.pem)
    assert read_public_key(path).id == key.public.id == sha256_bytes(path.read_bytes())
    encoded = serialization.load_pem_public_key(path.read_bytes()).public_bytes(PEM, SPKI)
    assert key.public.pem == encoded
    # Line ends and comments of the file do not matter.
    path.write_bytes(b"our key\r\n" + key.public.pem.replace(b"\n", b"\r\n"))
    assert read_public_key(path) == key.public


def test_no_representation_shows_a_private_key(key: PrivateKey) -> None:
    assert repr(key) == f"PrivateKey(public=PublicKey(id='{key.public.id}'))"


def with_unknown_kind(pem: bytes) -> bytes:
    """Return the DER of a key whose kind (id-ecPublicKey, RFC 5480) is an unknown one."""
    known, unknown = bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0279")
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert known in der
    return der.replace(known, unknown)


def pem_of(der: bytes, label: str) -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def without_pem(path: Path) -> str:
    path.write_bytes(b"a secret that is no key")
    return "is not a PEM file of a private key"


def with_password(path: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")))
    return "has a password"


def of_another_curve(path: Path) -> str:
    path.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(PEM, PKCS8, OPEN))
    return "not of the kind ECDSA P-256"


def of_another_kind(path: Path) -> str:
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, OPEN))
    return "not of the kind ECDSA P-256"


def of_an_unknown_kind(path: Path) -> str:
    path.write_bytes(pem_of(with_unknown_kind(new_key().pem()), "PRIVATE KEY"))
    return "is not a PEM file of a private key"


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:100])
    return "is not a PEM file of a private key"


def public_half(path: Path) -> str:
    path.write_bytes(new_key().public.pem)
    return "is not a PEM file of a private key"


def missing(path: Path) -> str:
    path.unlink()
    return "No such file"


@pytest.mark.parametrize(
    "spoil",
    [
        without_pem,
        with_password,
        of_another_curve,
        of_another_kind,
        of_an_unknown_kind,
        cut,
        public_half,
        missing,
    ],
)
def test_an_unusable_private_key_is_refused_and_not_quoted(
    private: Path, spoil: Callable[[Path], str]
) -> None:
    reason = spoil(private)
    content = private.read_text().splitlines() if private.exists() else []
    with pytest.raises(SettingsError, match=reason) as caught:
        read_private_key(private)
    assert str(caught.value).startswith(f"the private key {private} cannot be used: ")
    assert not [line for line in content if line in str(caught.value)]
    # A chained error could quote the file in a log.
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def private_half(path: Path) -> str:
    path.write_bytes(new_key().pem())
    return "holds a private key"


def several(path: Path) -> str:
    path.write_bytes(new_key().public.pem + new_key().public.pem)
    return "holds several keys"


def public_of_another_curve(path: Path) -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    path.write_bytes(key.public_bytes(PEM, SPKI))
    return "not of the kind ECDSA P-256"


def public_of_another_kind(path: Path) -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    path.write_bytes(key.public_bytes(PEM, SPKI))
    return "not of the kind ECDSA P-256"


def public_of_an_unknown_kind(path: Path) -> str:
    path.write_bytes(pem_of(with_unknown_kind(new_key().public.pem), "PUBLIC KEY"))
    return "is not a PEM file of a public key"


def unreadable(path: Path) -> str:
    path.mkdir()
    return "cannot be read: Is a directory"


def off_the_curve(path: Path) -> str:
    lines = new_key().public.pem.splitlines()
    der = bytearray(base64.b64decode(b"".join(lines[1:3])))
    der[-1] ^= 1
    path.write_bytes(b"\n".join([lines[0], base64.b64encode(der), lines[3]]))
    return "is not a PEM file of a public key"


def not_base64(path: Path) -> str:
    path.write_bytes(new_key().public.pem.replace(b"MFkw", b"M!kw"))
    return "is not a PEM file of a public key"


def empty(path: Path) -> str:
    path.write_bytes(b"")
    return "is not a PEM file of a public key"


@pytest.mark.parametrize(
    "spoil",
    [
        private_half,
        several,
        public_of_another_curve,
        public_of_another_kind,
        public_of_an_unknown_kind,
        unreadable,
        off_the_curve,
        not_base64,
        empty,
    ],
)
def test_one_unusable_public_key_refuses_the_folder(
    folder: Path, spoil: Callable[[Path], str]
) -> None:
    with pytest.raises(SettingsError, match=spoil(folder / "verdict-new.pem")) as caught:
        PublicKeys.read(folder)
    path = folder / "verdict-new.pem"
    assert str(caught.value).startswith(f"the public key {path} cannot be used: ")


def test_all_keys_of_a_purpose_are_read_once_and_other_files_are_not(folder: Path) -> None:
    before = PublicKeys.read(folder)
    new = new_key().public
    (folder / "verdict-new.pem").write_bytes(new.pem)
    (folder / "verdict-copy.pem").write_bytes(new.pem)
    # Kubernetes mounts a Secret with entries like this one.
    (folder / "..data").mkdir()
    (folder / "verdict.txt").write_text("no key")
    keys = PublicKeys.read(folder)
    assert set(keys.verdict) == {*before.verdict, new}
    assert len(keys.verdict) == 2
    assert keys.waiver == keys.of("waiver") == before.waiver
    assert keys.of("verdict") == keys.verdict


def test_a_folder_needs_a_verdict_key_but_no_waiver_key(folder: Path) -> None:
    for path in folder.glob("waiver*.pem"):
        path.unlink()
    assert PublicKeys.read(folder).waiver == ()
    for path in folder.glob("verdict*.pem"):
        path.unlink()
    with pytest.raises(SettingsError, match=r"no file verdict\*\.pem.*SIGNING__PUBLIC_KEYS"):
        PublicKeys.read(folder)
    folder.rmdir()
    with pytest.raises(SettingsError, match=r"cannot be read.*SIGNING__PUBLIC_KEYS"):
        PublicKeys.read(folder)


def test_one_key_cannot_serve_both_purposes(folder: Path) -> None:
    (key,) = PublicKeys.read(folder).verdict
    (folder / "waiver-2.pem").write_bytes(key.pem)
    with pytest.raises(SettingsError, match=f"{key.id[:12]} both"):
        PublicKeys.read(folder)


def test_a_made_key_is_private_and_is_never_replaced(tmp_path: Path) -> None:
    keys = tmp_path / "state" / "keys"
    private, public = keys / "verdict.pem", keys / "public"
    key = ensure_key(private, public, "verdict")
    assert private.stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o777 == public.stat().st_mode & 0o777 == 0o700
    assert ensure_key(private, public, "verdict") == key
    assert PublicKeys.read(public).verdict == (key.public,)
    # A lost public half comes back.
    (public / public_file("verdict", key.public)).unlink()
    ensure_key(private, public, "verdict")
    assert PublicKeys.read(public).verdict == (key.public,)


def test_a_rotation_keeps_the_old_public_key(tmp_path: Path) -> None:
    private, public = tmp_path / "verdict.pem", tmp_path / "elsewhere" / "public"
    old = ensure_key(private, public, "verdict")
    new = rotate_key(private, public, "verdict")
    assert ensure_key(private, public, "verdict") == new != old
    assert set(PublicKeys.read(public).verdict) == {old.public, new.public}
