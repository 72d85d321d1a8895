"""Train a model and write its bundle.

The steps: fit, calibrate, choose the threshold, evaluate, compile, seal, and verify the sealed
bundle.
"""

import platform
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from fraudops.datasets import Dataset, Split, class_weights, row_hashes
from fraudops.model import manifest
from fraudops.model.manifest import DatasetInfo, Interval, Manifest, ScorerInfo
from fraudops.model.metrics import choose_threshold, evaluate
from fraudops.model.pipeline_file import probabilities, save_pipeline
from fraudops.model.ranking import Floats
from fraudops.model.scorer import open_scorer
from fraudops.model.verification import verify_bundle
from fraudops.progress import Say
from fraudops.training.compilation import compile_pipeline
from fraudops.training.pipelines import build, calibrate
from fraudops.training.settings import TrainingSettings

REFERENCE_FRAUDS = 64
REFERENCE_NEAR_THRESHOLD = 64
REFERENCE_TOTAL = 256
DRIFT_REFERENCE_ROWS = 20_000
PROBABILITY = "fraud_probability"


@dataclass(frozen=True)
class TrainingResult:
    """A calibrated pipeline with its threshold and scores.

    `metrics` are measured on the test part, which no earlier step reads. `validation_probability`
    and `test_probability` are (n,), one value per row of their part.
    """

    settings: TrainingSettings
    split: Split
    model: CalibratedClassifierCV
    threshold: float
    expected_decision_rate: float
    validation_probability: Floats
    test_probability: Floats
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Provenance:
    """The origin of a bundle, for its manifest."""

    model_name: str
    dataset: Dataset
    git_revision: str


def train(split: Split, settings: TrainingSettings, say: Say) -> TrainingResult:
    """Train a model on the parts of a split.

    The train part fits the pipeline. The validation part calibrates it and chooses its threshold.
    The test part measures it. Raises DataError when a part is too small.
    """
    validation, test = split.validation, split.test
    weights = class_weights(validation.y, validation.prevalence)
    say(f"fitting {settings.algorithm} on {_count(split.train, 'train')}")
    model = calibrate(_fit(build(settings), split.train, say), validation.x, validation.y, weights)
    say(f"choosing the threshold on {_count(validation, 'validation')}")
    costs = settings.costs.as_costs()
    scored = probabilities(model, validation.x)
    threshold = choose_threshold(
        validation.y, scored, weights, validation.amount, costs, settings.seed, settings.resamples
    )
    say(f"evaluating on {_count(test, 'test')}")
    predicted = probabilities(model, test.x)
    metrics = evaluate(
        test.y,
        predicted,
        class_weights(test.y, test.prevalence),
        test.amount,
        threshold,
        costs,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    expected = float(weights @ (scored >= threshold) / weights.sum())
    return TrainingResult(settings, split, model, threshold, expected, scored, predicted, metrics)


def write_bundle(
    folder: Path, trained: TrainingResult, provenance: Provenance
) -> tuple[str, Manifest]:
    """Write a sealed and verified bundle into an empty folder; return its digest and manifest.

    Raises RefusedError when the pipeline does not compile or the bundle fails its verification.
    """
    save_pipeline(trained.model, folder / manifest.PIPELINE)
    kind = compile_pipeline(trained.model, folder)
    reference = reference_rows(trained)
    np.save(folder / manifest.REFERENCE_ROWS, reference)
    np.save(
        folder / manifest.TRAIN_ROWS,
        np.unique(
            np.concatenate([row_hashes(trained.split.train), row_hashes(trained.split.validation)])
        ),
    )
    _write_drift_reference(folder / manifest.DRIFT_REFERENCE, trained)
    digest = manifest.seal(
        folder, _manifest(trained, provenance, _compare(folder, trained, reference, kind))
    )
    return digest, verify_bundle(folder, digest)


def reference_rows(trained: TrainingResult) -> Floats:
    """Return the rows that every later verification scores, (rows, features + 1).

    They are frauds, rows near the threshold, random other rows, a row of the smallest value of each
    column and a row of the largest. The last column is the pipeline's probability.
    """
    random = np.random.default_rng(trained.settings.seed)
    x, y, scored = (
        trained.split.validation.x,
        trained.split.validation.y,
        trained.validation_probability,
    )
    frauds = random.permutation(np.flatnonzero(y == 1))[:REFERENCE_FRAUDS]
    near = np.argsort(np.abs(scored - trained.threshold), kind="stable")[:REFERENCE_NEAR_THRESHOLD]
    first = np.union1d(frauds, near)
    others = random.permutation(np.setdiff1d(np.arange(len(y)), first))[
        : REFERENCE_TOTAL - len(first)
    ]
    chosen = random.permutation(np.concatenate([first, others]))
    rows = np.vstack([x[chosen], x.min(axis=0), x.max(axis=0)])
    return np.column_stack([rows, probabilities(trained.model, rows)])


def _count(rows: Dataset, part: str) -> str:
    return f"{len(rows):,} {part} rows with {rows.frauds:,} frauds"


def _fit(pipeline: Pipeline, rows: Dataset, say: Say) -> Pipeline:
    # scikit-learn warns when a model does not converge, and the user must see that warning.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.fit(rows.x, rows.y)
    for warning in caught:
        say(f"warning: {str(warning.message).splitlines()[0]}")
    return pipeline


def _compare(folder: Path, trained: TrainingResult, reference: Floats, kind: str) -> ScorerInfo:
    """Compare the compiled scorer with the pipeline on the reference rows and all test rows."""
    scorer = open_scorer(folder)
    rows = np.vstack([reference[:, :-1], trained.split.test.x])
    expected = np.concatenate([reference[:, -1], trained.test_probability])
    scored = scorer.score_many(rows)
    mismatches = int(((scored >= trained.threshold) != (expected >= trained.threshold)).sum())
    return ScorerInfo(
        kind=kind,
        max_abs_difference=float(np.abs(scored - expected).max()),
        decision_mismatches=mismatches,
    )


def _write_drift_reference(path: Path, trained: TrainingResult) -> None:
    validation = trained.split.validation
    chosen: NDArray[np.intp] = np.arange(len(validation))
    if len(chosen) > DRIFT_REFERENCE_ROWS:
        chosen = np.sort(
            np.random.default_rng(trained.settings.seed).choice(
                chosen, DRIFT_REFERENCE_ROWS, replace=False
            )
        )
    x = validation.x[chosen]
    columns = {name: x[:, position] for position, name in enumerate(validation.schema.names)}
    pyarrow.parquet.write_table(
        pa.table({**columns, PROBABILITY: trained.validation_probability[chosen]}), path
    )


def _manifest(trained: TrainingResult, provenance: Provenance, scorer: ScorerInfo) -> Manifest:
    settings, split, dataset = trained.settings, trained.split, provenance.dataset
    return Manifest(
        format=manifest.FORMAT,
        model_name=provenance.model_name,
        algorithm=settings.algorithm,
        schema=dataset.schema.to_mapping(),
        schema_fingerprint=dataset.schema.fingerprint,
        threshold=trained.threshold,
        threshold_policy={
            "policy": "least cost",
            "statistic": "median",
            "resamples": settings.resamples,
            **settings.costs.model_dump(),
        },
        expected_decision_rate=trained.expected_decision_rate,
        metrics=trained.metrics,
        parameters={
            **settings.hyperparameters.model_dump(),
            "seed": settings.seed,
            "split": split.method,
        },
        dataset=DatasetInfo(
            digest=dataset.digest,
            source=dataset.source,
            rows=len(dataset),
            frauds=dataset.frauds,
            prevalence=dataset.prevalence,
            sample=dataset.sample,
        ),
        scorer=scorer,
        git_revision=provenance.git_revision,
        libraries=_libraries(scorer.kind),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files={},
    )


def _libraries(kind: str) -> dict[str, str]:
    names = [
        "fraudops",
        "numpy",
        "scikit-learn",
        "scipy",
        "skops",
        *(["onnx", "onnxruntime"] if kind == "onnx" else []),
    ]
    return {"python": platform.python_version()} | {name: version(name) for name in names}
