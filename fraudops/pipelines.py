"""Pipelines: built, calibrated, and kept as skops files that are opened through an allow-list of ours."""

import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

from fraudops import algorithms
from fraudops.algorithms import TrainingSettings
from fraudops.errors import BundleError, DataError

# What our pipelines hold beyond skops' own defaults. A file that names anything else is not opened,
# whatever it says of itself.
TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    }
)
FOLDS = 2


def build(settings: TrainingSettings) -> Pipeline:
    """The pipeline that the settings describe, not fitted."""
    chosen = settings.hyperparameters
    if isinstance(chosen, algorithms.LogisticRegression):
        solver = "saga" if chosen.l1_ratio else "lbfgs"
        values = chosen.model_dump() | {"class_weight": _class_weight(chosen.class_weight)}
        return Pipeline(
            [
                ("scale", StandardScaler()),
                ("model", LogisticRegression(**values, solver=solver, random_state=settings.seed)),
            ]
        )
    values = chosen.model_dump() | {"class_weight": _class_weight(chosen.class_weight)}
    return Pipeline(
        [
            (
                "model",
                HistGradientBoostingClassifier(
                    **values, early_stopping=False, random_state=settings.seed
                ),
            )
        ]
    )


def calibrate(
    fitted: Pipeline, x: NDArray[np.float64], y: NDArray[np.int8], weights: NDArray[np.float64]
) -> CalibratedClassifierCV:
    """One sigmoid over the decision function of the fitted pipeline (Platt 2000), fitted on these
    rows. Raises DataError with fewer than two of a class.

    With a frozen estimator scikit-learn fits exactly one calibrator on all rows; its folds only
    collect the same predictions in parts.
    """
    if min(int((y == 1).sum()), int((y != 1).sum())) < FOLDS:
        raise DataError(
            f"the validation part holds {int((y == 1).sum())} frauds among {len(y)} rows, too few to calibrate; give more rows"
        )
    model = CalibratedClassifierCV(
        FrozenEstimator(fitted), method="sigmoid", cv=FOLDS, ensemble=False
    )
    with warnings.catch_warnings():
        # "weights will only be used for the calibration itself": just what is wanted of a frozen
        # estimator.
        warnings.filterwarnings(
            "ignore", "Since FrozenEstimator does not appear to accept sample_weight", UserWarning
        )
        return model.fit(x, y, sample_weight=weights)


def probabilities(model: CalibratedClassifierCV, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, features) → (n,) probabilities of fraud, as the pipeline itself has them."""
    return np.asarray(model.predict_proba(x)[:, 1], dtype=np.float64)


def save_pipeline(model: CalibratedClassifierCV, path: Path) -> None:
    skops.io.dump(model, path)


def load_pipeline(path: Path) -> CalibratedClassifierCV:
    """Opens a skops file that holds a calibrated pipeline and no type beyond our allow-list.

    Raises BundleError.
    """
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=path)) - TRUSTED)
        if untrusted:
            raise BundleError(
                f"{path.name} holds types that fraudops does not open: {', '.join(untrusted)}; train the version with `fraudops train`"
            )
        model: Any = skops.io.load(path, trusted=sorted(TRUSTED))
    except (
        OSError,
        BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        UnsupportedTypeException,
        UntrustedTypesFoundException,
    ) as error:
        raise BundleError(f"{path.name} cannot be opened: {type(error).__name__}") from error
    if not isinstance(model, CalibratedClassifierCV):
        raise BundleError(
            f"{path.name} holds a {type(model).__name__}, not a calibrated pipeline; train the version with `fraudops train`"
        )
    return model


def _class_weight(value: str | float) -> str | dict[int, float] | None:
    if isinstance(value, float):
        return {0: 1.0, 1: value}
    return None if value == "none" else value
