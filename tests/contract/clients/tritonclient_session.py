"""A session of NVIDIA's client; run in its own environment: python FILE HOST:PORT."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "credit-fraud"


def tensor(name, values, datatype, binary):
    made = triton.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def main(address):
    client = triton.InferenceServerClient(address)
    seen = {
        "server": [client.is_server_live(), client.is_server_ready()],
        "model": [client.is_model_ready(MODEL, version) for version in ("", "1", "9")],
        "extensions": client.get_server_metadata()["extensions"],
    }
    inputs = client.get_model_metadata(MODEL)["inputs"]
    features = sum(each["datatype"] == "FP64" for each in inputs)
    x = np.full((2, features), 0.25)
    for form in ("binary", "json"):
        binary = form == "binary"
        ids = np.array([f"triton-{form}-{row}".encode() for row in range(2)], dtype=np.object_)
        tensors = [
            tensor("input-0", x, "FP64", binary),
            tensor("transaction_id", ids, "BYTES", binary),
        ]
        answer = client.infer(MODEL, tensors, request_id=f"triton-{form}")
        seen[form] = {
            "id": answer.get_response()["id"],
            "probabilities": answer.as_numpy("fraud_probability").tolist(),
            "prediction_ids": answer.as_numpy("prediction_id").tolist(),
        }
        single = client.infer(
            MODEL,
            [tensor("x", x[:1].astype(np.float32), "FP32", binary)],
            model_version="1",
            outputs=[triton.InferRequestedOutput("prediction", binary_data=binary)],
            parameters={"transaction_id": f"triton-{form}-single"},
        )
        seen[form]["single"] = single.as_numpy("prediction").tolist()
    calls = {
        "another model": lambda: client.infer("another", tensors),
        "another version": lambda: client.get_model_metadata(MODEL, "9"),
        "compressed": lambda: client.infer(MODEL, tensors, request_compression_algorithm="gzip"),
        "a call that does not exist": lambda: client.get_model_config(MODEL),
    }
    for name, call in calls.items():
        try:
            seen[name] = repr(call())
        except InferenceServerException as error:
            seen[name] = [error.status(), error.message()]
    print(json.dumps(seen))


main(sys.argv[1])
