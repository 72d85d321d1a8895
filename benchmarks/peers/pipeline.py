"""`python pipeline.py PLAIN.json MODEL.joblib`: build the fitted logistic regression.

It is built for the scikit-learn of this interpreter.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler


def build(path: Path, names: list[str] | None = None) -> Pipeline:
    """Build the pipeline that fit() would leave, from the numbers of benchmarks.models.

    With names, it is as if fitted on a DataFrame.
    """
    plain: dict[str, Any] = json.loads(path.read_text())
    scaler, model = StandardScaler(), LogisticRegression()
    scaler.mean_, scaler.scale_ = np.array(plain["mean"]), np.array(plain["scale"])
    scaler.var_ = scaler.scale_**2
    model.coef_, model.intercept_ = np.array([plain["weights"]]), np.array([plain["intercept"]])
    model.classes_ = np.array([0, 1])
    scaler.n_features_in_ = model.n_features_in_ = len(plain["mean"])
    scaler.n_samples_seen_ = 1
    if names:
        scaler.feature_names_in_ = np.array(names, dtype=object)
    return Pipeline([("scale", scaler), ("model", model)])


if __name__ == "__main__":
    import joblib

    joblib.dump(build(Path(sys.argv[1])), sys.argv[2])
