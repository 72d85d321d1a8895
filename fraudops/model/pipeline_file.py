"""Pipelines: built, calibrated, and kept as skops files that are opened through an allow-list of ours."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

from fraudops.errors import BundleError

# What our pipelines hold beyond skops' own defaults. A file that names anything else is not opened,
# whatever it says of itself.
TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    }
)


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
