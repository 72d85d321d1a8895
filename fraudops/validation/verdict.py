"""The comparison with production, and the verdict that is stored on a version.

A promotion repeats the comparison if another version serves at that time. The module is light to
import.
"""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudops.canonical import canonical_json, sha256_bytes
from fraudops.errors import RefusedError
from fraudops.model.manifest import Manifest
from fraudops.model.metrics import Metric, paired_difference
from fraudops.registry import TAG_VERDICT, ModelVersion, Registry
from fraudops.registry.verdicts import store_signed
from fraudops.signing.verdicts import SignedVerdict, Verdict
from fraudops.validation.gates import GateResult, GateSettings, not_compared, not_worse

SCORES = "validation/test_scores.npz"
# What the tag of the version shows. The whole verdict would not fit into it.
SHOWN = ("digest", "test_digest", "passed", "gates", "settings", "compared_to", "at")


@dataclass(frozen=True)
class TestScores:
    """Probabilities of a version's compiled scorer for each test row.

    All arrays are (n,). `test_digest` is the digest of the test rows, `digest` that of the bundle.
    """

    __test__ = False  # not a pytest class

    y: NDArray[np.int8]
    weights: NDArray[np.float64]
    probability: NDArray[np.float64]
    test_digest: str
    digest: str


@dataclass(frozen=True)
class Production:
    """The version that serves, according to the serving record."""

    version: str
    digest: str
    schema_fingerprint: str


@dataclass(frozen=True)
class ScoredVersion:
    """A version whose test scores are stored, and its signed verdict, which was verified.

    Only the verdict says what the version is. Any tag of the registry may be forged.
    """

    version: ModelVersion
    verdict: Verdict


def store_scores(registry: Registry, version: ModelVersion, scores: TestScores) -> str:
    """Store the test scores of a version, and return the sha256 for its verdict to seal."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        y=scores.y,
        weights=scores.weights,
        probability=scores.probability,
        test_digest=np.array(scores.test_digest),
        digest=np.array(scores.digest),
    )
    data = buffer.getvalue()
    registry.upload(version, SCORES, data)
    return sha256_bytes(data)


def stored_scores(registry: Registry, scored: ScoredVersion) -> TestScores:
    """Read the test scores of a version.

    Raises RefusedError when there are none, when the signed verdict does not seal them, when they
    are of another bundle, or when they cannot be read.
    """
    version = scored.version
    data = registry.download(version, SCORES)
    again = f"run `fraudops validate --version {version.version}` again"
    if data is None:
        raise RefusedError(f"version {version.version} has no stored test scores: {again}")
    # The registry is not trusted: forged scores would let a worse version win the comparison.
    if sha256_bytes(data) != scored.verdict.scores_digest:
        raise RefusedError(
            f"the stored test scores of version {version.version} are not those that its signed "
            f"verdict seals: {again}"
        )
    try:
        scores = _decode_scores(data)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RefusedError(
            f"the stored test scores of version {version.version} cannot be read: {again}"
        ) from error
    sound = (
        scores.y.ndim == 1
        and scores.y.shape == scores.weights.shape == scores.probability.shape
        and bool(np.isfinite(scores.probability).all())
    )
    if not sound or scores.digest != scored.verdict.digest:
        raise RefusedError(
            f"the stored test scores of version {version.version} are damaged "
            f"or of another bundle: {again}"
        )
    return scores


def _decode_scores(data: bytes) -> TestScores:
    # No pickle: an array from the registry must not run code.
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return TestScores(
            np.asarray(arrays["y"]).astype(np.int8),
            np.asarray(arrays["weights"]).astype(np.float64),
            np.asarray(arrays["probability"]).astype(np.float64),
            str(arrays["test_digest"]),
            str(arrays["digest"]),
        )


def compare(
    scores: TestScores, production: NDArray[np.float64], version: str, settings: GateSettings
) -> list[GateResult]:
    """Compare the candidate's scores with production's probabilities (n,) of the same rows."""
    differences = {
        metric: paired_difference(
            scores.y,
            scores.probability,
            production,
            scores.weights,
            metric,
            settings.seed,
            settings.resamples,
        )
        for metric in get_args(Metric)
    }
    return not_worse(differences, version, settings)


def nothing_to_compare(
    candidate_fingerprint: str | None, candidate_digest: str | None, production: Production | None
) -> str | None:
    """Return the reason why there is nothing to compare with, or None if there is something."""
    if production is None:
        return "no version is in production yet: there is nothing to compare with"
    if production.digest == candidate_digest:
        return f"version {production.version} in production is the same bundle"
    if production.schema_fingerprint != candidate_fingerprint:
        return (
            f"not comparable: version {production.version} in production reads other columns, "
            "so promote with `--strategy rollout`"
        )
    return None


def recompare(
    registry: Registry, candidate: ScoredVersion, production: ScoredVersion, settings: GateSettings
) -> list[GateResult]:
    """Repeat the comparison from the stored test scores of both versions.

    A promotion needs this if another version serves than at the time of the verdict.
    Raises RefusedError when the scores are not sealed, or not of the same test rows.
    """
    one, other = candidate.verdict, production.verdict
    serving = Production(other.version, other.digest, other.schema_fingerprint)
    reason = nothing_to_compare(one.schema_fingerprint, one.digest, serving)
    if reason is not None:
        return not_compared(reason, settings, passed=True)
    scores, served = stored_scores(registry, candidate), stored_scores(registry, production)
    if scores.test_digest != served.test_digest or not np.array_equal(scores.y, served.y):
        raise RefusedError(
            f"version {one.version} was validated on other test rows than version "
            f"{other.version}, which serves: "
            f"run `fraudops validate --version {one.version}` again"
        )
    return compare(scores, served.probability, other.version, settings)


@dataclass(frozen=True)
class Findings:
    """What a verdict judges.

    `manifest` is None if the bundle has none that can be read. `test_digest` and `scores_digest`
    are None if no row was scored.
    """

    gates: Sequence[GateResult]
    manifest: Manifest | None = None
    test_digest: str | None = None
    scores_digest: str | None = None
    compared_to: Production | None = None


def verdict(
    model_name: str, version: ModelVersion, found: Findings, settings: GateSettings, at: str
) -> Verdict:
    """Return the verdict on a version, which passes only if every gate passed.

    `at` is ISO 8601 in UTC.
    """
    compared, manifest = found.compared_to, found.manifest
    return Verdict(
        model_name=model_name,
        version=version.version,
        digest=version.digest or "",
        # Not from the registry's tags: the digest seals the manifest.
        schema_fingerprint=manifest.schema_fingerprint if manifest else "",
        sample=manifest.dataset.sample if manifest else False,
        passed=bool(found.gates) and all(gate.passed for gate in found.gates),
        gates=tuple(_gate(gate) for gate in found.gates),
        compared_to={"version": compared.version, "digest": compared.digest} if compared else None,
        test_digest=found.test_digest,
        scores_digest=found.scores_digest,
        at=at,
        settings=asdict(settings),
    )


def shown(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as the registry's tag and `--json` show it."""
    fields = msgspec.to_builtins({name: getattr(verdict, name) for name in SHOWN})
    return {**fields, "gates": list(fields["gates"])}


def store_verdict(
    registry: Registry, version: ModelVersion, verdict: Verdict, signed: SignedVerdict | None
) -> None:
    """Store the signed verdict, and then the tag that shows it.

    `signed` is None for a bundle whose manifest cannot be sealed. Such a verdict is only shown.
    """
    if signed is not None:
        store_signed(registry, version, signed)
    registry.set_tag(version.version, TAG_VERDICT, canonical_json(shown(verdict)).decode())


def _gate(gate: GateResult) -> dict[str, Any]:
    # JSON has no NaN and no infinity.
    value = (
        None if gate.value is None or not math.isfinite(gate.value) else float(f"{gate.value:.6g}")
    )
    return {
        "name": gate.name,
        "value": value,
        "limit": gate.limit,
        "passed": gate.passed,
        # The whole verdict must fit into one tag of the registry.
        "detail": gate.detail[:240],
    }
