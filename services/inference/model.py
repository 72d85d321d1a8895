"""An opened model: what a worker needs of a bundle to answer, read-only and shared by every request
that began with it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraudops.model.manifest import check_files, read_manifest
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.schema import FeatureSchema
from services.inference.parsing import TransactionReader


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One opening of a version, equal to no other.

    `sample`: it was trained on the packaged sample, and knows nothing of a bank's own transactions.
    """

    name: str
    version: str
    digest: str
    threshold: float
    sample: bool
    schema: FeatureSchema
    scorer: Scorer
    reader: TransactionReader


@dataclass(frozen=True)
class Serving:
    """A model in an epoch.

    A worker holds one and swaps it whole; `source` says where its bundle came from: registry,
    peer or cache.
    """

    epoch: int
    model: LoadedModel
    source: str


def open_model(folder: Path, version: str, digest: str) -> LoadedModel:
    """Opens and warms a bundle that the prover has verified; its files are held against their
    digests once more, which takes milliseconds. Raises BundleError.
    """
    manifest = read_manifest(folder, digest)
    check_files(folder, manifest)
    schema = manifest.feature_schema
    model = LoadedModel(
        manifest.model_name,
        version,
        digest,
        manifest.threshold,
        manifest.dataset.sample,
        schema,
        open_scorer(folder),
        TransactionReader(schema),
    )
    row = [min(max(0.0, feature.minimum), feature.maximum) for feature in schema.features]
    model.scorer.score(row)
    model.scorer.score_many(np.array([row, row]))
    return model
