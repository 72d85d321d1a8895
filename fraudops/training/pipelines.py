"""Build and calibrate scikit-learn pipelines."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fraudops.errors import DataError
from fraudops.training import settings as algorithms
from fraudops.training.settings import TrainingSettings

FOLDS = 2


def build(settings: TrainingSettings) -> Pipeline:
    """Return the pipeline that the settings describe, not fitted."""
    chosen = settings.hyperparameters
    values = chosen.model_dump() | {"class_weight": _class_weight(chosen.class_weight)}
    if isinstance(chosen, algorithms.LogisticRegression):
        # lbfgs is faster, but it has no L1 penalty.
        solver = "saga" if chosen.l1_ratio else "lbfgs"
        return Pipeline(
            [
                ("scale", StandardScaler()),
                ("model", LogisticRegression(**values, solver=solver, random_state=settings.seed)),
            ]
        )
    # Early stopping would take a part of the training rows away, at random.
    trees = HistGradientBoostingClassifier(
        **values, early_stopping=False, random_state=settings.seed
    )
    return Pipeline([("model", trees)])


def calibrate(
    fitted: Pipeline, x: NDArray[np.float64], y: NDArray[np.int8], weights: NDArray[np.float64]
) -> CalibratedClassifierCV:
    """Fit one sigmoid over the decision function of the fitted pipeline (Platt 2000).

    `x` is (n, features), `y` and `weights` are (n,). Raises DataError when a class has fewer than
    two rows.
    """
    if min(int((y == 1).sum()), int((y != 1).sum())) < FOLDS:
        raise DataError(
            f"the validation part holds {int((y == 1).sum())} frauds among {len(y)} rows, "
            "too few to calibrate; give more rows"
        )
    # With a frozen estimator scikit-learn fits exactly one calibrator on all rows. Its folds only
    # divide the work: each computes a part of the same predictions.
    model = CalibratedClassifierCV(
        FrozenEstimator(fitted), method="sigmoid", cv=FOLDS, ensemble=False
    )
    with warnings.catch_warnings():
        # scikit-learn warns that it uses the weights for the calibration only. That is intended.
        warnings.filterwarnings(
            "ignore", "Since FrozenEstimator does not appear to accept sample_weight", UserWarning
        )
        return model.fit(x, y, sample_weight=weights)


def _class_weight(value: str | float) -> str | dict[int, float] | None:
    if isinstance(value, float):
        return {0: 1.0, 1: value}
    return None if value == "none" else value
