"""FastAPI with a route that validates the body and answers a constant.

It shows the cost of the framework alone.
"""

from typing import Any

from fastapi import FastAPI, Response
from pydantic import ConfigDict, create_model

from benchmarks.applications.floor import BODY
from fraudops.schema import load_schema

FIELDS: dict[str, Any] = dict.fromkeys(load_schema().names, (float, ...))
Transaction = create_model("Transaction", __config__=ConfigDict(extra="forbid"), **FIELDS)
app = FastAPI()


@app.post("/predict")
async def predict(transaction: Transaction) -> Response:
    return Response(BODY, media_type="application/json")
