from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from fraudops.datasets import Dataset, Split, class_weights, generate, load, row_hashes, split
from fraudops.model import manifest as bundle
from fraudops.model.costs import Costs
from fraudops.model.metrics import choose_threshold, evaluate
from fraudops.model.pipeline_file import load_pipeline, probabilities
from fraudops.model.verification import verify_bundle
from fraudops.training import trainer
from fraudops.training.plots import draw
from fraudops.training.settings import training_settings
from fraudops.training.trainer import Provenance, TrainingResult, train, write_bundle


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return replace(generate(6000, seed=5, fraud_rate=0.02).dataset, prevalence=0.002)


@pytest.fixture(scope="module")
def parts(dataset: Dataset) -> Split:
    return split(dataset)


@pytest.fixture(scope="module")
def trained(parts: Split) -> TrainingResult:
    return train(parts, training_settings(), lambda text: None)


@pytest.fixture(scope="module")
def sealed(
    trained: TrainingResult, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, bundle.Manifest]:
    folder = tmp_path_factory.mktemp("bundle")
    return (folder, *write_bundle(folder, trained, Provenance("credit-fraud", dataset, "abc")))


def test_the_packaged_sample_trains_to_a_model_that_passes_its_gates_with_margin() -> None:
    messages: list[str] = []
    metrics = train(split(load()), training_settings(), messages.append).metrics
    assert metrics["roc_auc"].value >= 0.97
    assert metrics["average_precision"].lower >= 0.60
    assert not [text for text in messages if "warning" in text]


def test_the_threshold_comes_from_the_validation_part_weighted_to_prevalence(
    trained: TrainingResult, parts: Split
) -> None:
    validation = parts.validation
    weights = class_weights(validation.y, 0.002)
    assert trained.threshold == choose_threshold(
        validation.y, trained.validation_probability, weights, validation.amount, Costs()
    )
    flagged = trained.validation_probability >= trained.threshold
    assert trained.expected_decision_rate == pytest.approx(weights[flagged].sum() / weights.sum())


def test_the_metrics_are_those_of_the_test_part_weighted_to_prevalence(
    trained: TrainingResult, parts: Split
) -> None:
    weights = class_weights(parts.test.y, 0.002)
    expected = evaluate(
        parts.test.y,
        probabilities(trained.model, parts.test.x),
        weights,
        parts.test.amount,
        trained.threshold,
    )
    assert trained.metrics == expected


def test_the_scaler_is_fitted_on_the_train_part_alone(
    trained: TrainingResult, parts: Split
) -> None:
    scaler = trained.model.calibrated_classifiers_[0].estimator.estimator[0]
    assert scaler.mean_ == pytest.approx(parts.train.x.mean(axis=0))


def test_the_costs_and_the_seed_are_settings(trained: TrainingResult, parts: Split) -> None:
    dear = train(parts, training_settings(review=200.0), lambda text: None)
    assert dear.threshold > trained.threshold
    assert dear.expected_decision_rate < trained.expected_decision_rate


def test_warnings_of_scikit_learn_are_reported(parts: Split) -> None:
    messages: list[str] = []
    train(parts, training_settings(assignments=["max_iter=1", "C=100"]), messages.append)
    assert [text for text in messages if text.startswith("warning: lbfgs failed to converge")]


def test_a_bundle_is_complete_sealed_and_verified(
    sealed: tuple[Path, str, bundle.Manifest], dataset: Dataset
) -> None:
    folder, digest, manifest = sealed
    assert verify_bundle(folder, digest) == manifest
    assert set(manifest.files) == {
        bundle.PIPELINE,
        bundle.REFERENCE_ROWS,
        bundle.DRIFT_REFERENCE,
        bundle.TRAIN_ROWS,
        "scorer.json",
    }
    assert (manifest.dataset.digest, manifest.dataset.prevalence, manifest.dataset.sample) == (
        dataset.digest,
        0.002,
        False,
    )
    assert manifest.feature_schema == dataset.schema
    assert (manifest.git_revision, manifest.scorer.kind, manifest.scorer.decision_mismatches) == (
        "abc",
        "linear",
        0,
    )
    assert manifest.scorer.max_abs_difference < 1e-12
    assert {"seed": 7, "split": "time", "C": 0.01}.items() <= manifest.parameters.items()


def test_the_saved_pipeline_is_the_one_that_was_evaluated(
    sealed: tuple[Path, str, bundle.Manifest], trained: TrainingResult, parts: Split
) -> None:
    reopened = load_pipeline(sealed[0] / bundle.PIPELINE)
    assert (probabilities(reopened, parts.test.x) == trained.test_probability).all()


def test_reference_rows_hold_frauds_and_rows_about_the_threshold(
    sealed: tuple[Path, str, bundle.Manifest], trained: TrainingResult, parts: Split
) -> None:
    rows = np.load(sealed[0] / bundle.REFERENCE_ROWS)
    assert rows.shape == (trainer.REFERENCE_TOTAL + 2, len(parts.test.schema.features) + 1)
    assert rows[:, -1] == pytest.approx(probabilities(trained.model, rows[:, :-1]), abs=1e-15)
    held = {row.tobytes() for row in rows[:, :-1]}
    frauds = parts.validation.x[parts.validation.y == 1]
    nearest = np.argsort(np.abs(trained.validation_probability - trained.threshold))[
        : trainer.REFERENCE_NEAR_THRESHOLD
    ]
    assert all(row.tobytes() in held for row in parts.validation.x[nearest])
    assert sum(row.tobytes() in held for row in frauds) >= min(
        len(frauds), trainer.REFERENCE_FRAUDS
    )


def test_train_rows_are_those_of_train_and_validation_and_none_of_the_test_part(
    sealed: tuple[Path, str, bundle.Manifest], parts: Split
) -> None:
    hashes = np.load(sealed[0] / bundle.TRAIN_ROWS)
    assert hashes.dtype == np.uint64
    assert (np.diff(hashes.astype(object)) > 0).all()
    assert np.isin(row_hashes(parts.train), hashes).all()
    assert np.isin(row_hashes(parts.validation), hashes).all()
    assert not np.isin(row_hashes(parts.test), hashes).any()


def test_the_drift_reference_is_the_validation_part_with_its_probabilities(
    sealed: tuple[Path, str, bundle.Manifest], trained: TrainingResult, parts: Split
) -> None:
    table = pyarrow.parquet.read_table(sealed[0] / bundle.DRIFT_REFERENCE)
    assert table.column_names == [*parts.validation.schema.names, "fraud_probability"]
    assert (table["fraud_probability"].to_numpy() == trained.validation_probability).all()
    assert (table["Amount"].to_numpy() == parts.validation.amount).all()


def test_a_long_validation_part_is_sampled_for_the_drift_reference(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "DRIFT_REFERENCE_ROWS", 500)
    write_bundle(tmp_path, trained, Provenance("credit-fraud", dataset, "abc"))
    scored = pyarrow.parquet.read_table(tmp_path / bundle.DRIFT_REFERENCE)[
        "fraud_probability"
    ].to_numpy()
    assert len(scored) == 500
    assert np.isin(scored, trained.validation_probability).all()


def test_gradient_boosting_makes_a_bundle_with_an_onnx_scorer(
    parts: Split, dataset: Dataset, tmp_path: Path
) -> None:
    settings = training_settings(assignments=["max_iter=20"], algorithm="hist-gradient-boosting")
    digest, manifest = write_bundle(
        tmp_path,
        train(parts, settings, lambda text: None),
        Provenance("credit-fraud", dataset, "abc"),
    )
    assert (manifest.algorithm, manifest.scorer.kind, manifest.scorer.decision_mismatches) == (
        "hist-gradient-boosting",
        "onnx",
        0,
    )
    assert manifest.scorer.max_abs_difference < 1e-12
    assert "scorer.onnx" in manifest.files
    assert verify_bundle(tmp_path, digest).libraries.keys() >= {"onnx", "onnxruntime"}


def test_pictures_are_pngs_of_curves_calibration_and_confusion(
    trained: TrainingResult, parts: Split
) -> None:
    test = parts.test
    pictures = draw(
        test.y,
        trained.test_probability,
        class_weights(test.y, test.prevalence),
        trained.threshold,
        "a model",
    )
    assert set(pictures) == {
        "roc_curve.png",
        "precision_recall_curve.png",
        "calibration.png",
        "confusion_matrix.png",
    }
    assert all(data.startswith(b"\x89PNG") and len(data) > 5000 for data in pictures.values())


def test_pictures_can_be_drawn_of_a_model_that_flags_nothing_or_is_certain() -> None:
    y = np.array([0, 0, 0, 1, 1], np.int8)
    for probability in (np.zeros(5), np.ones(5), y.astype(np.float64)):
        assert len(draw(y, probability, np.ones(5), 0.5, "a model")) == 4
