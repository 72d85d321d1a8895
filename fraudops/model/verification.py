"""What serving checks before it trusts a bundle: digests, schema, and the compiled scorer against
the pipeline's own scores.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraudops.errors import BundleError, SettingsError
from fraudops.model.manifest import FORMAT, REFERENCE_ROWS, Manifest, check_files, read_manifest
from fraudops.model.scorer import Scorer, open_scorer

LINEAR_TOLERANCE = 1e-6
ONNX_TOLERANCE = 1e-5
SINGLE_ROWS = 64


def verify_bundle(folder: Path, digest: str) -> Manifest:
    """Checks every file of the folder and the scorer's probabilities of the reference rows.

    Raises BundleError.
    """
    manifest = read_manifest(folder, digest)
    check_files(folder, manifest)
    check_manifest(manifest)
    check_scorer(open_scorer(folder), read_reference_rows(folder, manifest), manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raises BundleError unless format, schema, fingerprint and threshold are ones that this
    release serves.
    """
    if manifest.format != FORMAT:
        raise BundleError(
            f"the bundle has format {manifest.format}, this release reads {FORMAT}: train the version again, or upgrade what reads it"
        )
    try:
        fingerprint = manifest.feature_schema.fingerprint
    except SettingsError as error:
        raise BundleError(str(error)) from error
    if fingerprint != manifest.schema_fingerprint:
        raise BundleError(
            f"the bundle's schema has fingerprint {fingerprint[:12]}, its manifest says {manifest.schema_fingerprint[:12]}"
        )
    if not 0 < manifest.threshold <= 1:
        raise BundleError(
            f"the bundle's threshold is {manifest.threshold}, which is no probability above 0"
        )


def read_reference_rows(folder: Path, manifest: Manifest) -> NDArray[np.float64]:
    """(rows, features + 1), the pipeline's own probability last. Raises BundleError."""
    try:
        rows = np.load(folder / REFERENCE_ROWS, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{REFERENCE_ROWS} cannot be read: {error}") from error
    width = len(manifest.feature_schema.features) + 1
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.float64
        or rows.ndim != 2
        or rows.shape[1] != width
        or not len(rows)
    ):
        raise BundleError(
            f"{REFERENCE_ROWS} must hold float64 rows of {width} columns (features, then the pipeline's probability)"
        )
    if not np.isfinite(rows).all():
        raise BundleError(f"{REFERENCE_ROWS} holds values that are not finite")
    return rows


def tolerance(manifest: Manifest) -> float:
    """The largest difference of probability between scorer and pipeline that is still the same model."""
    return (
        LINEAR_TOLERANCE
        if manifest.scorer.kind == "linear"
        else max(10 * manifest.scorer.max_abs_difference, ONNX_TOLERANCE)
    )


def check_scorer(scorer: Scorer, reference: NDArray[np.float64], manifest: Manifest) -> None:
    """Holds both ways of scoring, batches and single rows, against the stored probabilities.

    Raises BundleError.
    """
    width = reference.shape[1] - 1
    if scorer.kind != manifest.scorer.kind or scorer.features != width:
        raise BundleError(
            f"the compiled scorer ({scorer.kind}, {scorer.features} features) is not the manifest's ({manifest.scorer.kind}, {width} features)"
        )
    rows, expected = np.ascontiguousarray(reference[:, :-1]), reference[:, -1]
    single = np.array([scorer.score(row) for row in rows[:SINGLE_ROWS].tolist()])
    difference = float(
        np.abs(
            np.concatenate([scorer.score_many(rows) - expected, single - expected[:SINGLE_ROWS]])
        ).max()
    )
    if not difference <= tolerance(manifest):  # NaN is refused too
        raise BundleError(
            f"the compiled scorer differs from the pipeline by up to {difference:.2g} on the reference rows, allowed is {tolerance(manifest):.2g}: "
            "do not serve this version; train it again with the same release"
        )
