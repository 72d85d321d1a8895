"""Signed verdicts for the bundles of a benchmark, which pods refuse to open without them."""

from fraudops.model.manifest import MANIFEST, parse_manifest
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.kept import keep
from fraudops.signing.key_files import ensure_key
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import SignedVerdict, Verdict, sign_verdict
from fraudops.state import State


def sign_cached(state: State, version: str, digest: str) -> SignedVerdict:
    """Sign a passing verdict on a cached bundle, and keep it there as after a verification.

    The keys are in the state folder, as `fraudops up` makes them.
    """
    data = (state.bundles / digest / MANIFEST).read_bytes()
    manifest = parse_manifest(data, digest)
    verdict = Verdict(
        model_name=manifest.model_name,
        version=version,
        digest=digest,
        schema_fingerprint=manifest.schema_fingerprint,
        sample=manifest.dataset.sample,
        passed=True,
        gates=(),
        compared_to=None,
        test_digest=None,
        at="2026-01-01T00:00:00Z",
    )
    key = ensure_key(state.verdict_key, state.public_keys, "verdict")
    signed = sign_verdict(data, verdict, key)
    proof, keys = Credentials(signed_verdict=signed), PublicKeys.read(state.public_keys)
    keep(state.bundles, version, digest, proof, accept(proof, version, digest, keys))
    return signed
