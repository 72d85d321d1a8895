"""`python kserve_server.py --model_name fraud --http_port PORT --workers N`.

BENCHMARK_MODEL names the file of the fitted pipeline.
"""

import argparse
import os
from typing import Any

import joblib
import kserve
import numpy as np


class FraudModel(kserve.Model):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.model = joblib.load(os.environ["BENCHMARK_MODEL"])
        self.ready = True
        return self.ready

    def predict(
        self, payload: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        return {
            "predictions": self.model.predict_proba(np.array(payload["instances"]))[:, 1].tolist()
        }


if __name__ == "__main__":
    arguments, _ = argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
    kserve.ModelServer(workers=arguments.workers).start([FraudModel(arguments.model_name)])
