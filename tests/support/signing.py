"""Keys, verdicts and waivers for tests of signatures."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fraudops.canonical import sha256_bytes
from fraudops.signing.keys import PrivateKey, PublicKeys, new_key, public_file
from fraudops.signing.verdicts import SignedVerdict, Verdict, sign_verdict
from fraudops.signing.waivers import Waiver

MANIFEST = b'{"files":{},"format":1}'
DIGEST = sha256_bytes(MANIFEST)
VERDICT = Verdict(
    model_name="fraud",
    version="7",
    digest=DIGEST,
    schema_fingerprint="f" * 64,
    sample=False,
    passed=True,
    gates=({"name": "pr_auc", "value": 0.8, "limit": 0.7, "passed": True, "detail": ""},),
    compared_to={"version": "6", "digest": "6" * 64},
    test_digest="7" * 64,
    at="2026-03-01T10:00:00.000+00:00",
)
WAIVER = Waiver(
    model_name="fraud",
    version="7",
    digest=DIGEST,
    reason="the gate is too strict",
    who="bob",
    request="request-1",
    expires_at=datetime(2026, 3, 1, 11, tzinfo=UTC),
    at="2026-03-01T10:00:00.000+00:00",
)


def sign_bundle(
    manifest: bytes, version: str, key: PrivateKey, *, passed: bool = True
) -> SignedVerdict:
    """Sign a verdict on the bundle with this manifest."""
    verdict = msgspec.structs.replace(
        VERDICT, version=version, digest=sha256_bytes(manifest), passed=passed
    )
    return sign_verdict(manifest, verdict, key)


@dataclass(frozen=True)
class Signers:
    """One key for each purpose, and the public keys of a release that trusts both."""

    verdict: PrivateKey
    waiver: PrivateKey

    @classmethod
    def new(cls) -> "Signers":
        return cls(new_key(), new_key())

    @property
    def public(self) -> PublicKeys:
        return PublicKeys((self.verdict.public,), (self.waiver.public,))

    def write_public(self, folder: Path) -> Path:
        """Write the folder of public keys and return it."""
        folder.mkdir(parents=True)
        (folder / public_file("verdict", self.verdict.public)).write_bytes(self.verdict.public.pem)
        (folder / public_file("waiver", self.waiver.public)).write_bytes(self.waiver.public.pem)
        return folder

    def signed_verdict(self, verdict: Verdict = VERDICT) -> SignedVerdict:
        return sign_verdict(MANIFEST, verdict, self.verdict)
