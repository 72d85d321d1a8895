"""A service as tutorials write it: a pydantic model, a DataFrame per row, predict_proba.

BENCHMARK_MODEL names the file of the fitted pipeline.
"""

import os
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import create_model

from fraudops.schema import load_schema

FIELDS: dict[str, Any] = dict.fromkeys(load_schema().names, (float, ...))
Transaction = create_model("Transaction", **FIELDS)
THRESHOLD = 0.3

app = FastAPI()
model = joblib.load(os.environ["BENCHMARK_MODEL"])


@app.post("/predict")
def predict(transaction: Transaction) -> dict[str, Any]:
    frame = pd.DataFrame([transaction.model_dump()])
    probability = float(model.predict_proba(frame)[0, 1])
    return {"fraud_probability": probability, "prediction": int(probability >= THRESHOLD)}
