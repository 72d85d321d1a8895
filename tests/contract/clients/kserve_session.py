"""A session of KServe's client; run in its own environment: python FILE HOST:PORT."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "credit-fraud"


def request(form, rows=2, features=29):
    binary = form == "binary"
    x = InferInput("input-0", [rows, features], "FP64")
    x.set_data_from_numpy(np.full((rows, features), 0.25), binary_data=binary)
    ids = InferInput("transaction_id", [rows], "BYTES")
    names = [f"kserve-{form}-{row}" for row in range(rows)]
    ids.set_data_from_numpy(np.array(names, dtype=np.object_), binary_data=binary)
    return InferRequest(MODEL, [x, ids], request_id=f"kserve-{form}")


async def main(url):
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) as client:
        seen = {
            "server": [await client.is_server_live(url), await client.is_server_ready(url)],
            "model": [await client.is_model_ready(url, name) for name in (MODEL, "another")],
        }
        for form in ("binary", "json"):
            answer = await client.infer(url, request(form), model_name=MODEL)
            outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
            seen[form] = {
                "id": answer.id,
                "probabilities": outputs["fraud_probability"],
                "prediction_ids": outputs["prediction_id"],
            }
        try:
            await client.infer(url, request("json"), model_name="another")
        except httpx.HTTPStatusError as error:
            seen["another model"] = str(error)
    print(json.dumps(seen))


asyncio.run(main(f"http://{sys.argv[1]}"))
