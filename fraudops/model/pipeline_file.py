"""Read and write calibrated pipelines as skops files.

A skops file may name any Python type. Only types on an allow-list are loaded, so that opening a
file from the registry runs no foreign code.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

from fraudops.errors import BundleError
from fraudops.model.manifest import PIPELINE

# The types that our pipelines need in addition to those that skops trusts by default.
TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    }
)


def probabilities(model: CalibratedClassifierCV, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the pipeline's own probabilities of fraud: (n, features) → (n,)."""
    return np.asarray(model.predict_proba(x)[:, 1], dtype=np.float64)


def checked_probabilities(model: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what `probabilities` does, for a pipeline from the registry.

    Raises BundleError when it cannot score these rows, or when it has not exactly two classes.
    """
    try:
        both = np.asarray(model.predict_proba(x), dtype=np.float64)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise BundleError(
            f"{PIPELINE} cannot score rows of {x.shape[1]} features ({type(error).__name__}): "
            "train the version again"
        ) from error
    if both.shape != (len(x), 2):
        raise BundleError(
            f"{PIPELINE} returns an array of the shape {both.shape}, expected {(len(x), 2)}: "
            "train the version again"
        )
    return both[:, 1]


def save_pipeline(model: CalibratedClassifierCV, path: Path) -> None:
    skops.io.dump(model, path)


def load_pipeline(path: Path) -> CalibratedClassifierCV:
    """Load a calibrated pipeline from a skops file.

    Raises BundleError when the file cannot be read, names a type that is not on the allow-list,
    or contains something else than a calibrated pipeline.
    """
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=path)) - TRUSTED)
        if untrusted:
            raise BundleError(
                f"{path.name} holds types that fraudops does not open: {', '.join(untrusted)}; "
                "train the version with `fraudops train`"
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
        # Not the message of the error: it may quote the content of an untrusted file.
        raise BundleError(f"{path.name} cannot be opened: {type(error).__name__}") from error
    if not isinstance(model, CalibratedClassifierCV):
        raise BundleError(
            f"{path.name} holds a {type(model).__name__}, not a calibrated pipeline; "
            "train the version with `fraudops train`"
        )
    return model
