"""Opened models, which workers use to answer.

They are read-only, and all requests that started with a model share it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraudops.model.manifest import check_files, read_manifest
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.promotion.serving_record import ServingTarget
from fraudops.schema import FeatureSchema
from services.inference.reading.transactions import TransactionReader


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model version that a worker has opened; instances compare by identity.

    `sample` is true if the model was trained on the packaged sample, which is not production data
    of a bank.
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
    """The target that a worker serves, and its opened model.

    A worker replaces the whole object in one assignment. `source` is where the bundle was found:
    registry, peer or cache.
    """

    target: ServingTarget
    model: LoadedModel
    source: str


def open_model(folder: Path, version: str, digest: str) -> LoadedModel:
    """Open and warm up a bundle that has been verified.

    Raises BundleError if the files no longer match their digests; the check takes milliseconds.
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
    # The first call of a scorer is slow, so make it here and not in a request.
    row = [min(max(0.0, feature.minimum), feature.maximum) for feature in schema.features]
    model.scorer.score(row)
    model.scorer.score_many(np.array([row, row]))
    return model
