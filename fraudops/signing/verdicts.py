"""Signed verdicts: what `validate` found of one bundle, and the proof that it was `validate`.

A verdict is signed as a folder of two files, so that the public tool `model_signing` verifies it
as well. `bundle.json` seals all files of the bundle by their sha256. `verdict.json` is the verdict.
The signature travels with the verdict, so that a rollback needs no registry.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from fraudops.canonical import canonical_json, decode_json, sha256_bytes
from fraudops.errors import BundleError, SignatureRefusedError
from fraudops.extensible import Extensible
from fraudops.signing.envelope import StatementKind, Subject, sign, verify
from fraudops.signing.keys import PrivateKey, PublicKeys, short

FORMAT = 1
# The signed files. The first one is fraudops.model.manifest.MANIFEST.
BUNDLE_FILE, VERDICT_FILE = "bundle.json", "verdict.json"
SIGNATURE_FILE = "verdict.sigstore.json"


class SignedVerdict(Extensible, frozen=True, kw_only=True):
    """The exact text of `verdict.json`, and that of its sigstore bundle.

    Nothing may be read from `verdict` before `check_verdict` has returned.
    """

    verdict: str
    signature: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `verdict.json`.

    `digest` is that of the bundle, `test_digest` that of the test rows, `scores_digest` the sha256
    of the file with their scores, `at` is ISO 8601 in UTC. `compared_to` names version and digest
    of the model in production. `signer` is the id of the key. Readers skip fields that a later
    release added; the signed text keeps them. A change that every reader must understand raises
    `format`.
    """

    format: int = FORMAT
    model_name: str
    version: str
    digest: str
    schema_fingerprint: str
    sample: bool
    passed: bool
    gates: tuple[dict[str, Any], ...]
    compared_to: dict[str, str] | None
    test_digest: str | None
    scores_digest: str | None = None
    at: str
    settings: dict[str, Any] = {}
    signer: str = ""


class _VerdictFormat(msgspec.Struct, frozen=True):
    """The one field of a verdict that every release can read."""

    format: int


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    digest: str


class _ModelPredicate(msgspec.Struct, frozen=True):
    """The predicate of OpenSSF Model Signing v1.0: the files of a folder."""

    resources: tuple[_Resource, ...]
    serialization: dict[str, Any]


_KIND = StatementKind(
    "verdict",
    "https://model_signing/signature/v1.0",
    _ModelPredicate,
    "Validate this version again (`fraudops validate`), and then promote it",
)


def sign_verdict(manifest: bytes, verdict: Verdict, key: PrivateKey) -> SignedVerdict:
    """Sign a verdict together with the content of its bundle's `bundle.json`.

    Raises BundleError when the verdict is about another manifest.
    """
    if sha256_bytes(manifest) != verdict.digest:
        raise BundleError(
            f"the verdict is about the bundle {verdict.digest[:12]}, and the sha256 of "
            f"{BUNDLE_FILE} is {sha256_bytes(manifest)[:12]}"
        )
    return _signed(verdict, key)


def _signed(verdict: Verdict, key: PrivateKey) -> SignedVerdict:
    """Sign a verdict and the digest of its bundle."""
    content = canonical_json(msgspec.structs.replace(verdict, signer=key.public.id))
    # The tool sorts the names, and the root digest depends on their order.
    files = {BUNDLE_FILE: verdict.digest, VERDICT_FILE: sha256_bytes(content)}
    resources = tuple(_Resource(name, "sha256", digest) for name, digest in files.items())
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    subject = Subject(verdict.model_name, {"sha256": _root(resources)})
    signature = sign(_KIND, subject, _ModelPredicate(resources, how), key)
    return SignedVerdict(verdict=content.decode(), signature=signature)


def check_verdict(signed: SignedVerdict | None, digest: str, keys: PublicKeys) -> Verdict:
    """Return the verdict on the bundle `digest` after verifying that `validate` signed it.

    The verdict may be that the version failed: see its field `passed`.
    Raises SignatureRefusedError when it is unsigned, altered, of another bundle, or signed by a
    key that is not among `keys`.
    """
    if signed is None:
        raise _KIND.refused(f"the bundle {digest[:12]} has no signed verdict")
    statement = verify(_KIND, signed.signature, keys)
    files = _signed_files(statement.predicate, statement.subject)
    if files[BUNDLE_FILE] != digest:
        raise _KIND.refused(
            f"it is about the bundle {files[BUNDLE_FILE][:12]}, not about {digest[:12]}"
        )
    try:
        content = signed.verdict.encode()
    except UnicodeEncodeError:
        raise _KIND.refused(f"{VERDICT_FILE} is not UTF-8") from None
    if sha256_bytes(content) != files[VERDICT_FILE]:
        raise _KIND.refused(
            f"{VERDICT_FILE} has been altered: it is not the text that "
            f"the key {short(statement.signer.id)} signed"
        )
    return _verdict(content, digest)


def _signed_files(predicate: _ModelPredicate, subject: Subject) -> Mapping[str, str]:
    """Return the sha256 of each signed file. Raises SignatureRefusedError."""
    names = [(resource.name, resource.algorithm) for resource in predicate.resources]
    if names != [(BUNDLE_FILE, "sha256"), (VERDICT_FILE, "sha256")]:
        raise _KIND.refused(f"what was signed is not {BUNDLE_FILE} and {VERDICT_FILE} alone")
    try:
        consistent = _root(predicate.resources) == subject.sha256
    except ValueError:
        consistent = False
    if not consistent:
        raise _KIND.refused("the digests in its signature contradict each other")
    return {resource.name: resource.digest for resource in predicate.resources}


def _root(resources: tuple[_Resource, ...]) -> str:
    """Return the digest of a folder: the sha256 of its files' digests, one after another.

    Raises ValueError for a digest that is not hexadecimal.
    """
    return sha256_bytes(b"".join(bytes.fromhex(resource.digest) for resource in resources))


def _verdict(content: bytes, digest: str) -> Verdict:
    """Decode the text of a verified verdict. Raises SignatureRefusedError."""
    try:
        # The format first: a verdict of a later format may not decode as this release's Verdict.
        version = decode_json(content, _VerdictFormat).format
        if version > FORMAT:
            raise SignatureRefusedError(
                f"the verdict has format {version}, and this release reads up to {FORMAT}: "
                "upgrade the fraudops that reports this error"
            )
        verdict = decode_json(content, Verdict)
    except msgspec.MsgspecError:
        raise _KIND.refused(f"{VERDICT_FILE} cannot be read by this release") from None
    # Signed by another program with our key: the two files do not belong together.
    if verdict.digest != digest:
        raise _KIND.refused(
            f"{VERDICT_FILE} is about the bundle {verdict.digest[:12]}, not about {digest[:12]}"
        )
    return verdict
