from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from fraudops.errors import BundleError, DataError, RefusedError
from fraudops.model.pipeline_file import load_pipeline, probabilities, save_pipeline
from fraudops.model.scorer import open_scorer
from fraudops.training.compilation import compile_pipeline
from fraudops.training.pipelines import build, calibrate
from fraudops.training.settings import training_settings

ALGORITHMS = ["logistic-regression", "hist-gradient-boosting"]


def rows(seed: int = 0, size: int = 1200, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, features)) * np.arange(1, features + 1)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] / 6 + random.normal(size=size) > 2.5).astype(np.int8)


def calibrated(estimator: Any) -> CalibratedClassifierCV:
    x, y = rows(1)
    return calibrate(estimator.fit(*rows(0)), x, y, np.where(y == 1, 1.0, 5.0))


def trained(algorithm: str, *assignments: str) -> CalibratedClassifierCV:
    return calibrated(build(training_settings(assignments=assignments, algorithm=algorithm)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_calibration_is_exactly_one_sigmoid_over_the_decision_function(algorithm: str) -> None:
    model = trained(algorithm)
    x, _ = rows(2)
    (pair,) = model.calibrated_classifiers_
    (calibrator,) = pair.calibrators
    decision = pair.estimator.decision_function(x)
    assert probabilities(model, x) == pytest.approx(
        1 / (1 + np.exp(calibrator.a_ * decision + calibrator.b_)), abs=1e-12
    )


def test_calibration_leaves_the_fitted_pipeline_as_it_was() -> None:
    pipeline = build(training_settings()).fit(*rows(0))
    before = pipeline.decision_function(rows(2)[0])
    x, y = rows(1)
    calibrate(pipeline, x, y, np.ones(len(y)))
    assert (pipeline.decision_function(rows(2)[0]) == before).all()


def test_heavier_genuine_rows_calibrate_to_a_lower_share_of_fraud() -> None:
    pipeline = build(training_settings()).fit(*rows(0))
    x, y = rows(1)
    weights = np.where(y == 1, 1.0, 20.0)
    model = calibrate(pipeline, x, y, weights)
    assert weights @ probabilities(model, x) / weights.sum() == pytest.approx(
        y @ weights / weights.sum(), rel=0.05
    )


@pytest.mark.parametrize("frauds", [0, 1])
def test_validation_rows_with_hardly_a_fraud_are_refused(frauds: int) -> None:
    x, _ = rows(1)
    y = np.zeros(len(x), np.int8)
    y[:frauds] = 1
    with pytest.raises(DataError, match=f"{frauds} frauds among 1200 rows, too few to calibrate"):
        calibrate(build(training_settings()).fit(*rows(0)), x, y, np.ones(len(y)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_probabilities(algorithm: str) -> None:
    x, _ = rows(2)
    assert (
        probabilities(trained(algorithm, "max_iter=40"), x)
        == probabilities(trained(algorithm, "max_iter=40"), x)
    ).all()


def test_hyperparameters_seed_and_class_weights_reach_the_estimator() -> None:
    linear = build(training_settings(assignments=["C=0.5", "class_weight=balanced"], seed=3))[-1]
    assert (linear.C, linear.class_weight, linear.random_state) == (0.5, "balanced", 3)
    trees = build(
        training_settings(
            assignments=["max_iter=9", "class_weight=4"], algorithm="hist-gradient-boosting"
        )
    )[-1]
    assert (trees.max_iter, trees.class_weight, trees.random_state) == (9, {0: 1.0, 1: 4.0}, 7)
    assert trees.early_stopping is False  # "auto" would hold out random rows from 10,000 rows on


def test_an_elastic_net_trains_and_compiles(tmp_path: Path) -> None:
    assert compile_pipeline(trained("logistic-regression", "l1_ratio=0.5"), tmp_path) == "linear"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_saved_pipeline_comes_back_through_the_allow_list_with_the_same_probabilities(
    tmp_path: Path, algorithm: str
) -> None:
    model = trained(algorithm)
    save_pipeline(model, tmp_path / "pipeline.skops")
    x, _ = rows(2)
    assert (
        probabilities(load_pipeline(tmp_path / "pipeline.skops"), x) == probabilities(model, x)
    ).all()


def twice(x: np.ndarray) -> np.ndarray:
    return 2 * x


def test_a_pipeline_with_a_type_beyond_the_allow_list_is_not_opened(tmp_path: Path) -> None:
    stranger = make_pipeline(FunctionTransformer(twice), StandardScaler(), LogisticRegression())
    skops.io.dump(calibrated(stranger), tmp_path / "pipeline.skops")
    with pytest.raises(BundleError, match=r"types that fraudops does not open: .*twice"):
        load_pipeline(tmp_path / "pipeline.skops")


def test_an_invalid_skops_file_or_another_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.skops"
    with pytest.raises(BundleError, match="cannot be opened: FileNotFoundError"):
        load_pipeline(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(BundleError, match="cannot be opened: BadZipFile"):
        load_pipeline(path)
    skops.io.dump(LogisticRegression().fit(*rows(0)), path)
    with pytest.raises(BundleError, match="holds a LogisticRegression, not a calibrated pipeline"):
        load_pipeline(path)


@pytest.mark.parametrize(
    ("algorithm", "assignments", "kind"),
    [
        ("logistic-regression", [], "linear"),
        ("logistic-regression", ["class_weight=balanced", "C=10"], "linear"),
        ("hist-gradient-boosting", [], "onnx"),
        ("hist-gradient-boosting", ["max_leaf_nodes=2", "class_weight=3"], "onnx"),
        (
            "hist-gradient-boosting",
            ["min_samples_leaf=1200"],
            "onnx",
        ),  # every tree is a single leaf
    ],
)
def test_the_compiled_scorer_has_the_pipelines_probabilities_to_the_last_digits(
    tmp_path: Path, algorithm: str, assignments: list[str], kind: str
) -> None:
    model = trained(algorithm, *assignments)
    assert compile_pipeline(model, tmp_path) == kind
    scorer = open_scorer(tmp_path)
    x, _ = rows(2)
    x[0], x[1] = 1e6, -1e6
    assert (scorer.kind, scorer.features) == (kind, 6)
    assert np.abs(scorer.score_many(x) - probabilities(model, x)).max() < 1e-12
    assert (
        np.abs([scorer.score(row) for row in x[:50].tolist()] - scorer.score_many(x[:50])).max()
        < 1e-14
    )
    assert scorer.score_many(x[:0]).shape == (0,)


def test_rows_score_the_same_alone_in_groups_of_any_size_and_from_several_threads(
    tmp_path: Path,
) -> None:
    compile_pipeline(trained("hist-gradient-boosting"), tmp_path)
    scorer, x = open_scorer(tmp_path), rows(2, size=600)[0]
    many = scorer.score_many(x).tolist()

    def few(size: int) -> list[float]:
        return [
            score
            for start in range(0, len(x), size)
            for score in scorer.score_few(x[start : start + size].tolist())
        ]

    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(few, [1, 2, 3, 8, 64] * 4):
            assert scores == pytest.approx(many, abs=1e-14)


def test_values_exactly_on_a_split_go_the_pipelines_way(tmp_path: Path) -> None:
    model = trained("hist-gradient-boosting")
    compile_pipeline(model, tmp_path)
    nodes = model.calibrated_classifiers_[0].estimator.estimator[-1]._predictors[0][0].nodes
    x = np.repeat(rows(2)[0][:1], 2 * len(nodes), axis=0)
    for position, node in enumerate(nodes[nodes["is_leaf"] == 0]):
        x[2 * position, node["feature_idx"]] = node["num_threshold"]
        x[2 * position + 1, node["feature_idx"]] = np.nextafter(node["num_threshold"], np.inf)
    assert np.abs(open_scorer(tmp_path).score_many(x) - probabilities(model, x)).max() < 1e-12


@pytest.mark.parametrize(
    "scaler", [StandardScaler(with_mean=False), StandardScaler(with_std=False), "passthrough"]
)
def test_a_partial_or_absent_scaler_folds_in_as_well(tmp_path: Path, scaler: Any) -> None:
    model = calibrated(Pipeline([("scale", scaler), ("model", LogisticRegression())]))
    compile_pipeline(model, tmp_path)
    x, _ = rows(2)
    assert np.abs(open_scorer(tmp_path).score_many(x) - probabilities(model, x)).max() < 1e-12


def uncalibrated() -> Any:
    return build(training_settings()).fit(*rows(0))


def isotonic() -> Any:
    return CalibratedClassifierCV(FrozenEstimator(uncalibrated()), method="isotonic").fit(*rows(1))


def several_calibrators() -> Any:
    return CalibratedClassifierCV(build(training_settings()), method="sigmoid", cv=3).fit(*rows(1))


def categorical() -> Any:
    x, y = rows(1)
    x = np.clip(np.round(x), 0, 5)
    return calibrate(
        HistGradientBoostingClassifier(categorical_features=[0], max_iter=3).fit(x, y),
        x,
        y,
        np.ones(len(y)),
    )  # type: ignore[arg-type]


def diverged() -> Any:
    model = trained("logistic-regression")
    model.calibrated_classifiers_[0].estimator.estimator[-1].coef_[0, 0] = np.inf
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: calibrated(
                make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=3))
            ),
            "a pipeline of StandardScaler, RandomForestClassifier",
        ),
        (uncalibrated, "not calibrated by exactly one sigmoid: use logistic-regression"),
        (isotonic, "not calibrated by exactly one sigmoid"),
        (several_calibrators, "not calibrated by exactly one sigmoid"),
        (categorical, "categorical features does not compile"),
        (diverged, "not finite numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Since FrozenEstimator", "ignore:invalid value")
def test_a_pipeline_that_does_not_compile_is_refused_with_the_way_out(
    tmp_path: Path, make: Any, message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        compile_pipeline(make(), tmp_path)
    assert not (tmp_path / "scorer.json").exists()
