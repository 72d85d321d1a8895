"""The credentials of cached bundles: a pod verifies them before it opens a bundle.

A file next to each cached bundle keeps the credentials that were accepted. So a pod can start while
the serving record cannot be read.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fraudops.canonical import canonical_json, sha256_bytes
from fraudops.errors import SettingsError, SignatureRefusedError
from fraudops.extensible import decode_document, encode_document
from fraudops.files import write_atomically
from fraudops.signing.credentials import AcceptedStatements, Credentials, accept
from fraudops.signing.keys import PublicKeys

SUFFIX = ".credentials.json"


class KeptCredentials(Credentials, frozen=True, kw_only=True, omit_defaults=True):
    """Credentials that were accepted for `version`, and what they say, for display.

    `signer` is the id of the key of the verdict. `waived_by` and `waiver_reason` come from a waiver
    that was necessary.
    """

    version: str
    signer: str | None = None
    waived_by: str | None = None
    waiver_reason: str | None = None


def kept_path(bundles: Path, digest: str) -> Path:
    return bundles / f"{digest}{SUFFIX}"


def read_kept(bundles: Path, digest: str) -> KeptCredentials | None:
    """Return the kept credentials, or None if the file is missing or damaged. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return decode_document(kept_path(bundles, digest).read_bytes(), KeptCredentials)
    return None


def keep(
    bundles: Path, version: str, digest: str, credentials: Credentials, accepted: AcceptedStatements
) -> None:
    """Write the file of accepted credentials. Raises OSError."""
    kept = KeptCredentials(
        signed_verdict=credentials.signed_verdict,
        signed_waiver=credentials.signed_waiver,
        unsigned=credentials.unsigned,
        version=version,
        signer=accepted.signer,
        waived_by=accepted.waiver.who if accepted.waiver else None,
        waiver_reason=accepted.waiver.reason if accepted.waiver else None,
    )
    if read_kept(bundles, digest) != kept:
        write_atomically(kept_path(bundles, digest), encode_document(kept))


def without_mark(credentials: Credentials) -> Credentials:
    """Return the signed statements without the mark, which only the serving record may set."""
    return Credentials(
        signed_verdict=credentials.signed_verdict, signed_waiver=credentials.signed_waiver
    )


def first_accepted(
    offered: Sequence[Credentials], version: str, digest: str, keys: PublicKeys
) -> tuple[Credentials, AcceptedStatements]:
    """Return the first credentials that let the bundle serve as `version`, and what they say.

    Raises SignatureRefusedError with the reason for the first ones when none do.
    """
    refusals: list[SignatureRefusedError] = []
    for credentials in offered or (Credentials(),):
        try:
            return credentials, accept(credentials, version, digest, keys)
        except SignatureRefusedError as error:
            refusals.append(error)
    raise refusals[0]


def trusted_keys(folder: Path) -> PublicKeys:
    """Read the public keys of a running pod. Raises SignatureRefusedError: nothing is verified."""
    try:
        return PublicKeys.read(folder)
    except SettingsError:
        # The kubelet replaces all files of a Secret together. A first read may see both states.
        pass
    try:
        return PublicKeys.read(folder)
    except SettingsError as error:
        raise SignatureRefusedError(f"no signature can be verified: {error}") from error


def require_keys(folder: Path) -> None:
    """Check at a start that there is a verdict key. Raises SettingsError.

    It reads no key, because that imports `cryptography`, and a start must be fast.
    """
    if not any(folder.glob("verdict*.pem")):
        raise SettingsError(
            f"the folder of public keys {folder} holds no file verdict*.pem, so no bundle can be "
            "verified: set FRAUDOPS_SIGNING__PUBLIC_KEYS to the folder of the release's public "
            "keys; on one machine `fraudops up` makes the keys"
        )


def fingerprint(folder: Path) -> str:
    """Return a digest of the public keys' files, or "" if there are none. Raises OSError."""
    files = {path.name: sha256_bytes(path.read_bytes()) for path in folder.glob("*.pem")}
    return sha256_bytes(canonical_json(files)) if files else ""


def load_cryptography() -> None:
    """Import what a verification uses, so that the first one does not wait for it."""
    import cryptography.hazmat.primitives.asymmetric.ec
    import cryptography.hazmat.primitives.serialization  # noqa: F401
