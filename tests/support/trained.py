"""Bundles of really trained models, sound or spoilt, and their registration.

The models are small enough for a test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudops.datasets import Dataset, row_hashes, split
from fraudops.model.manifest import (
    MANIFEST,
    PIPELINE,
    REFERENCE_ROWS,
    TRAIN_ROWS,
    DatasetInfo,
    ScorerInfo,
    seal,
)
from fraudops.model.pipeline_file import probabilities, save_pipeline
from fraudops.registry import TAG_DIGEST, TAG_SAMPLE, TAG_SCHEMA_FINGERPRINT, Registry
from fraudops.training.compilation import compile_pipeline
from fraudops.training.pipelines import build, calibrate
from fraudops.training.settings import training_settings
from tests.support.bundles import make_manifest
from tests.support.mlflow_runs import new_run, put

Labels = NDArray[np.int8]


@dataclass(frozen=True)
class Trained:
    """A sealed bundle in a folder."""

    folder: Path
    digest: str
    fingerprint: str


def train(
    dataset: Dataset,
    folder: Path,
    seen: Callable[[Dataset], Dataset] = lambda rows: split(rows).train,
    features: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda x: x,
    labels: Callable[[Labels], Labels] = lambda y: y,
    threshold: float = 0.3,
) -> Trained:
    """Train a calibrated logistic regression on the dataset's train part, and seal its bundle.

    `seen`, `features` and `labels` change the rows, the features and the labels that training
    gets.
    """
    parts, rows = split(dataset), seen(dataset)
    fitted = build(training_settings()).fit(features(rows.x), labels(rows.y))
    model = calibrate(
        fitted,
        features(parts.validation.x),
        labels(parts.validation.y),
        np.ones(len(parts.validation)),
    )
    folder.mkdir(parents=True)
    save_pipeline(model, folder / PIPELINE)
    kind = compile_pipeline(model, folder)
    reference = parts.validation.x[:100]
    np.save(folder / REFERENCE_ROWS, np.column_stack([reference, probabilities(model, reference)]))
    np.save(folder / TRAIN_ROWS, np.sort(row_hashes(rows)))
    manifest = msgspec.structs.replace(
        make_manifest(dataset.schema, threshold),
        dataset=DatasetInfo(
            digest=dataset.digest,
            source=dataset.source,
            rows=len(dataset),
            frauds=dataset.frauds,
            prevalence=dataset.prevalence,
            sample=dataset.sample,
        ),
        parameters={"split": "time", "seed": 7},
        scorer=ScorerInfo(kind=kind, max_abs_difference=0.0, decision_mismatches=0),
    )
    return Trained(folder, seal(folder, manifest), dataset.schema.fingerprint)


def seal_again(trained: Trained, **changes: Any) -> Trained:
    """Seal a bundle again after one of its files was changed.

    The manifest then matches the files, so that only a gate can find the change.
    """
    manifest = make_manifest()
    stored = msgspec.json.decode((trained.folder / MANIFEST).read_bytes(), type=type(manifest))
    return Trained(
        trained.folder,
        seal(trained.folder, msgspec.structs.replace(stored, **changes)),
        trained.fingerprint,
    )


def register(url: str, registry: Registry, trained: Trained, **tags: str) -> str:
    """Upload the bundle to a new run and return the number of the new version."""
    run = new_run(url)
    for path in trained.folder.iterdir():
        put(url, run, f"bundle/{path.name}", path.read_bytes())
    return registry.create_version(
        run,
        {
            TAG_DIGEST: trained.digest,
            TAG_SCHEMA_FINGERPRINT: trained.fingerprint,
            TAG_SAMPLE: "false",
        }
        | tags,
    )
