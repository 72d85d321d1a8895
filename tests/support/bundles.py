"""A small real bundle for serving and promotion tests.

It is made in milliseconds, without scikit-learn.
"""

import json
from pathlib import Path

import numpy as np

from fraudops.model.manifest import (
    FORMAT,
    REFERENCE_ROWS,
    DatasetInfo,
    Interval,
    Manifest,
    ScorerInfo,
    seal,
)
from fraudops.model.scorer import SCORER, open_scorer
from fraudops.schema import FeatureSchema, load_schema


def make_manifest(
    schema: FeatureSchema | None = None, threshold: float = 0.3, sample: bool = True
) -> Manifest:
    schema = schema or load_schema()
    return Manifest(
        format=FORMAT,
        model_name="credit-fraud",
        algorithm="logistic-regression",
        schema=schema.to_mapping(),
        schema_fingerprint=schema.fingerprint,
        threshold=threshold,
        threshold_policy={"policy": "cost"},
        expected_decision_rate=0.01,
        metrics={"roc_auc": Interval(0.97, 0.95, 0.99)},
        parameters={},
        dataset=DatasetInfo(
            digest="0" * 64,
            source="packaged sample",
            rows=100,
            frauds=5,
            prevalence=0.001727,
            sample=sample,
        ),
        scorer=ScorerInfo(kind="linear", max_abs_difference=0.0, decision_mismatches=0),
        git_revision="unknown",
        libraries={},
        created_at="2026-01-01T00:00:00Z",
        files={},
    )


def write_linear_bundle(
    folder: Path,
    seed: int = 0,
    schema: FeatureSchema | None = None,
    threshold: float = 0.3,
    sample: bool = True,
) -> str:
    """Write a sealed bundle whose scorer is a seeded dot product, and return its digest.

    Bundles of different seeds give different scores.
    """
    manifest = make_manifest(schema, threshold, sample)
    random = np.random.default_rng(seed)
    features = len(manifest.feature_schema.features)
    coefficients = random.normal(size=features) / features
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCORER).write_text(
        json.dumps(
            {"kind": "linear", "coefficients": coefficients.tolist(), "intercept": -1.0 - seed}
        )
    )
    rows = random.normal(size=(50, features))
    np.save(folder / REFERENCE_ROWS, np.column_stack([rows, open_scorer(folder).score_many(rows)]))
    return seal(folder, manifest)
