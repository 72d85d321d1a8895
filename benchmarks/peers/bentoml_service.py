"""The service for `bentoml serve bentoml_service:Fraud`.

BENCHMARK_MODEL names the file of the fitted pipeline.
"""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service
class Fraud:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["BENCHMARK_MODEL"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[list[float]]) -> list[float]:
        probabilities: list[float] = self.model.predict_proba(np.array(rows))[:, 1].tolist()
        return probabilities
