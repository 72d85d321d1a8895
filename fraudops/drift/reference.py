"""The reference of a drift scan: the validation rows in the bundle of the serving version."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fraudops import endpoints
from fraudops.drift.psi import SCORE
from fraudops.errors import BundleError, SettingsError
from fraudops.model.manifest import DRIFT_REFERENCE, Manifest, check_files, read_manifest
from fraudops.promotion.serving_record import ServingEntry
from fraudops.registry import Registry, verified_bundle
from fraudops.registry.proof import require_credentials
from fraudops.settings import DriftSettings
from fraudops.signing.keys import PublicKeys
from fraudops.state import State


@dataclass(frozen=True)
class Reference:
    """The manifest of the serving version, and the validation rows of its training.

    `rows` has the columns of the features and the score, as float64.
    """

    entry: ServingEntry
    manifest: Manifest
    rows: pd.DataFrame


def read_reference(
    state: State, entry: ServingEntry, model_name: str, public_keys: Path
) -> Reference:
    """Read the reference from the local cache of bundles, or else from MLflow.

    Raises SignatureRefusedError when no signed statement lets the version serve, BundleError for a
    bundle that is bad or has no reference, UnknownVersionError, and StoreDownError when MLflow is
    needed and is unavailable.
    """
    open_registry = partial(_registry, state, model_name)
    require_credentials(
        entry.version,
        entry.digest,
        [entry.credentials],
        state.bundles,
        PublicKeys.read(public_keys),
        open_registry,
    )
    bundle = verified_bundle(
        entry.version, entry.digest, state.bundles, open_registry, _checked_manifest
    )
    with bundle as (folder, manifest):
        return _open(folder, manifest, entry)


def _registry(state: State, model_name: str) -> Registry:
    return Registry(endpoints.mlflow_url(state), model_name)


def _checked_manifest(folder: Path, digest: str) -> Manifest:
    """Check the files of a bundle, without the scorer, which a scan does not use."""
    manifest = read_manifest(folder, digest)
    check_files(folder, manifest)
    return manifest


def _open(folder: Path, manifest: Manifest, entry: ServingEntry) -> Reference:
    if DRIFT_REFERENCE not in manifest.files:
        raise BundleError(
            f"the bundle has no {DRIFT_REFERENCE}: train the version again with this release"
        )
    frame = pd.read_parquet(folder / DRIFT_REFERENCE)
    columns = [*manifest.feature_schema.names, SCORE]
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        fault = f"lacks the column {missing[0]}" if missing else "has no rows"
        raise BundleError(f"{DRIFT_REFERENCE} {fault}: train the version again with this release")
    return Reference(entry, manifest, frame[columns].astype(np.float64))


def column_thresholds(manifest: Manifest, limits: DriftSettings) -> dict[str, float]:
    """Return the thresholds of the score and of every feature, the score first.

    Raises SettingsError for a threshold of a column that the model does not have.
    """
    names = manifest.feature_schema.names
    for name in limits.feature_thresholds:
        if name not in names:
            raise SettingsError(
                f"FRAUDOPS_DRIFT__FEATURE_THRESHOLDS names {name!r}, which is not a feature of "
                f"the model in production ({', '.join(names)})"
            )
    return {SCORE: limits.score_threshold} | {
        name: limits.feature_thresholds.get(name, limits.feature_threshold) for name in names
    }
