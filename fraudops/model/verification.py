"""Verify a bundle before it serves: digests, schema, and the scores of the compiled scorer."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraudops.errors import BundleError, SettingsError
from fraudops.model.manifest import (
    FORMAT,
    REFERENCE_ROWS,
    TRAIN_ROWS,
    Manifest,
    check_files,
    read_manifest,
)
from fraudops.model.scorer import Scorer, open_scorer

LINEAR_TOLERANCE = 1e-6
ONNX_TOLERANCE = 1e-5
SINGLE_ROWS = 64


def verify_bundle(folder: Path, digest: str) -> Manifest:
    """Check every file of the folder, and the scorer's probabilities of the reference rows.

    Raises BundleError.
    """
    manifest = read_manifest(folder, digest)
    check_files(folder, manifest)
    check_manifest(manifest)
    check_scorer(open_scorer(folder), read_reference_rows(folder, manifest), manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check that this release can serve the manifest's format, schema and threshold.

    Raises BundleError.
    """
    if manifest.format != FORMAT:
        raise BundleError(
            f"the bundle has format {manifest.format}, and this release reads {FORMAT}: "
            "train the version again, or upgrade the fraudops that reports this error"
        )
    try:
        fingerprint = manifest.feature_schema.fingerprint
    except SettingsError as error:
        raise BundleError(str(error)) from error
    if fingerprint != manifest.schema_fingerprint:
        raise BundleError(
            f"the bundle's schema has the fingerprint {fingerprint[:12]}, but its manifest says "
            f"{manifest.schema_fingerprint[:12]}: train the version again"
        )
    if not 0 < manifest.threshold <= 1:
        raise BundleError(
            f"the bundle's threshold is {manifest.threshold}, and must be above 0 and at most 1: "
            "train the version again"
        )


def read_reference_rows(folder: Path, manifest: Manifest) -> NDArray[np.float64]:
    """Return the reference rows, (rows, features + 1), with the pipeline's probability last.

    Raises BundleError.
    """
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
            f"{REFERENCE_ROWS} must hold float64 rows of {width} columns "
            "(features, then the pipeline's probability)"
        )
    if not np.isfinite(rows).all():
        raise BundleError(f"{REFERENCE_ROWS} holds values that are not finite")
    return rows


def read_train_rows(folder: Path) -> NDArray[np.uint64]:
    """Return a hash of each row that training saw, (rows,), sorted.

    Raises BundleError.
    """
    try:
        rows = np.load(folder / TRAIN_ROWS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{TRAIN_ROWS} cannot be read: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint64 or rows.ndim != 1:
        raise BundleError(f"{TRAIN_ROWS} must hold one uint64 for each row that training saw")
    return rows


def tolerance(manifest: Manifest) -> float:
    """Return the largest difference of probability that scorer and pipeline may have."""
    return (
        LINEAR_TOLERANCE
        if manifest.scorer.kind == "linear"
        else max(10 * manifest.scorer.max_abs_difference, ONNX_TOLERANCE)
    )


def check_scorer(scorer: Scorer, reference: NDArray[np.float64], manifest: Manifest) -> None:
    """Compare the scorer with the stored probabilities, in a batch and row by row.

    Raises BundleError when they differ by more than the tolerance.
    """
    width = reference.shape[1] - 1
    if scorer.kind != manifest.scorer.kind or scorer.features != width:
        raise BundleError(
            f"the compiled scorer ({scorer.kind}, {scorer.features} features) "
            f"is not the manifest's ({manifest.scorer.kind}, {width} features)"
        )
    rows, expected = np.ascontiguousarray(reference[:, :-1]), reference[:, -1]
    single = np.array([scorer.score(row) for row in rows[:SINGLE_ROWS].tolist()])
    difference = float(
        np.abs(
            np.concatenate([scorer.score_many(rows) - expected, single - expected[:SINGLE_ROWS]])
        ).max()
    )
    # Not `difference > tolerance`: that is false for NaN, and NaN must be refused.
    if not difference <= tolerance(manifest):
        raise BundleError(
            f"the compiled scorer differs from the pipeline by up to {difference:.2g} on the "
            f"reference rows, allowed is {tolerance(manifest):.2g}: "
            "do not serve this version; train it again with the same release"
        )
