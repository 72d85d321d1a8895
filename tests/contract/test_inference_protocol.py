"""The contract of the Open Inference Protocol, checked against real workers."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from fraudops import __version__
from fraudops.audit.records import Prediction
from fraudops.schema import load_schema
from services.inference.http.tensor_metadata import OUTPUTS
from tests.support.http_client import HTTP
from tests.support.serving import ULB_ROW, Service
from tests.support.two_paths import Wire
from tests.support.waiting import eventually

INFER = "/v2/models/credit-fraud/infer"
VALUES = list(ULB_ROW.values())
FEATURES = len(VALUES)
CARD = "4111111111111111"


def tensor(rows: list[list[float]], **more: Any) -> dict[str, Any]:
    shape = [len(rows), FEATURES]
    return {"name": "input-0", "shape": shape, "datatype": "FP64", "data": rows, **more}


def infer(service: Service, *inputs: dict[str, Any], **more: Any) -> httpx.Response:
    return service.post(INFER, json.dumps({"inputs": inputs, **more}))


def outputs(answer: httpx.Response) -> dict[str, list[Any]]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def error(answer: httpx.Response) -> str:
    """Return the message after checking that the clients can read it."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert answer.headers["x-request-id"]
    return str(body["error"])


def prediction(service: Service, identifier: str) -> Prediction:
    (record,) = [record for record in service.audited() if record.id == identifier]
    assert isinstance(record, Prediction)
    return record


def test_the_server_and_its_model_describe_themselves(service: Service) -> None:
    def shown(path: str) -> Any:
        answer = HTTP.get(service.url + path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        return answer.json()

    server = {"name": "fraudops", "version": __version__, "extensions": ["binary_tensor_data"]}
    assert shown("/v2") == shown("/v2/") == server
    assert shown("/v2/health/live") == {"live": True}
    assert shown("/v2/health/ready") == {"ready": True, "live": True}
    assert shown("/v2/models") == {"models": ["credit-fraud"]}
    for path in ("/v2/models/credit-fraud", "/v2/models/credit-fraud/versions/1"):
        assert shown(f"{path}/ready") == {"name": "credit-fraud", "ready": True}
        model = shown(path)
        assert (model["name"], model["versions"]) == ("credit-fraud", ["1"])
        names = [each["name"] for each in model["inputs"]]
        assert names == [*load_schema().names, "transaction_id", "entity_key"]
        amount = model["inputs"][names.index("Amount")]
        assert (amount["datatype"], amount["shape"]) == ("FP64", [-1])
        assert amount["parameters"]["minimum"] == 0
        assert [each["name"] for each in model["outputs"]] == list(OUTPUTS)


def test_an_inference_is_scored_and_audited_as_a_prediction(service: Service) -> None:
    ids = {"transaction_id": "t-v2", "entity_key": "card-7"}
    usual = service.predict(ULB_ROW | ids, **{"x-request-id": "r-v2"}).json()
    answer = infer(service, tensor([VALUES]), id="r-v2", parameters=ids)
    found = outputs(answer)
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("credit-fraud", "1")
    for name in ("fraud_probability", "prediction", "threshold"):
        assert found[name] == [usual[name]]
    records = [
        prediction(service, identifier)
        for identifier in (usual["prediction_id"], *found["prediction_id"])
    ]
    first, second = (
        {name: getattr(record, name) for name in record.__struct_fields__} for record in records
    )
    varying = dict.fromkeys(("id", "latency_ms"))
    assert first | varying == second | varying


def test_every_form_of_the_same_rows_has_the_same_answer(service: Service) -> None:
    x = np.random.default_rng(1).normal(size=(3, FEATURES))
    x[:, -1] = np.abs(x[:, -1])
    rows = x.tolist()
    columns = [
        {"name": name, "shape": shape, "datatype": "FP64", "data": values}
        for name, values, shape in zip(
            ULB_ROW, x.T.tolist(), [[3], [3, 1]] * FEATURES, strict=False
        )
    ]
    head = tensor(rows, parameters={"binary_data_size": x.nbytes})
    del head["data"]
    start = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    binary = HTTP.post(
        service.url + INFER,
        content=start + x.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(start))},
    )
    answers = [
        infer(service, tensor(rows)),
        infer(service, tensor(x.ravel().tolist(), shape=[3, FEATURES])),
        infer(service, *reversed(columns)),
        binary,
    ]
    probabilities = [outputs(answer)["fraud_probability"] for answer in answers]
    assert probabilities == [probabilities[0]] * 4
    batch = {"transactions": [dict(zip(ULB_ROW, row, strict=True)) for row in rows]}
    usual = service.post("/predict/batch", json.dumps(batch)).json()["predictions"]
    assert probabilities[0] == [each["fraud_probability"] for each in usual]


def test_the_id_is_echoed_or_made_and_names_the_request_in_the_audit(service: Service) -> None:
    for given, header, kept in (
        ("abc:1", None, "abc:1"),
        ("abc:1", "from-header", "from-header"),
        ("two words", None, None),
        (None, None, None),
    ):
        content = json.dumps({"inputs": [tensor([VALUES])], "id": given})
        headers = {"x-request-id": header} if header else {}
        answer = HTTP.post(service.url + INFER, content=content, headers=headers)
        (made,) = outputs(answer)["prediction_id"]
        assert answer.json()["id"] == (given or made)
        assert prediction(service, made).request_id == (kept or made)
        assert answer.headers["x-request-id"] == (kept or made)
    answer = infer(service, tensor([VALUES] * 2))
    made, other = outputs(answer)["prediction_id"]
    assert answer.json()["id"] == made
    request_ids = {prediction(service, each).request_id for each in (made, other)}
    assert request_ids == {answer.headers["x-request-id"]}


def test_ids_come_as_tensors_or_as_parameters(service: Service) -> None:
    names = {"name": "transaction_id", "shape": [2], "datatype": "BYTES", "data": ["v-1", None]}
    for answer, expected in (
        (infer(service, tensor([VALUES] * 2), names), ["v-1", None]),
        (
            infer(service, tensor([VALUES] * 2), parameters={"transaction_ids": ["v-2", "v-3"]}),
            ["v-2", "v-3"],
        ),
        (infer(service, tensor([VALUES]), parameters={"transaction_id": "v-4"}), ["v-4"]),
    ):
        made = outputs(answer)["prediction_id"]
        assert [prediction(service, each).transaction_id for each in made] == expected


def test_outputs_are_selected_by_name(service: Service) -> None:
    wanted = [{"name": "prediction", "parameters": {"binary_data": True}}, {"name": "threshold"}]
    assert list(outputs(infer(service, tensor([VALUES]), outputs=wanted))) == [
        "prediction",
        "threshold",
    ]
    for names in (["score"], ["prediction", "prediction"]):
        refused = infer(service, tensor([VALUES]), outputs=[{"name": name} for name in names])
        assert refused.status_code == 400
        assert "fraud_probability" in error(refused)


def test_a_batch_has_at_most_10_000_rows(service: Service) -> None:
    full = infer(service, tensor([VALUES] * 10_000), outputs=[{"name": "prediction"}])
    assert outputs(full) == {"prediction": [0] * 10_000}
    assert error(infer(service, tensor([VALUES] * 10_001))).endswith("at most 10000 rows")


REFUSED: list[tuple[dict[str, Any] | bytes, str]] = [
    (b"", "the body is empty"),
    (b"{", "the body is not valid JSON"),
    (b'{"inputs": [], "inputs": []}', "gives inputs twice"),
    ({"instances": [VALUES]}, "form of KServe V1"),
    (ULB_ROW, "lacks the field inputs"),
    ({"inputs": [tensor([VALUES], datatype="FP16")]}, "must have one of the datatypes"),
    ({"inputs": [tensor([VALUES[1:]])]}, "rows of another length"),
    ({"inputs": [tensor([VALUES], shape=[2**31, 2**31])]}, "must have the shape"),
    ({"inputs": [tensor([VALUES], shape=[-1, FEATURES])]}, "at least one row"),
    ({"inputs": [tensor([VALUES])] * 2}, "two tensors of one name"),
    ({"inputs": [tensor([VALUES], name="V1"), tensor([VALUES], name=CARD)]}, "inputs[1] is no"),
    ({"inputs": [tensor([[CARD] * FEATURES])]}, "must be a number, not a string"),
    ({"inputs": [tensor([[1e9] * FEATURES])]}, "V1 must be at most 500 (and 28 more)"),
]


@pytest.mark.parametrize(("body", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_refused_body_is_400_with_its_reason(
    service: Service, body: dict[str, Any] | bytes, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = service.post(INFER, content, None)
    assert answer.status_code == 400
    assert words in error(answer)
    assert CARD not in answer.text


def failing(service: Service) -> Iterator[tuple[httpx.Response, int]]:
    """Yield answers with errors of every part of the service, and their statuses."""

    def call(method: str, path: str, **more: Any) -> httpx.Response:
        return HTTP.request(method, service.url + path, **more)

    for path in ("/v2/nowhere", "/v2/models/another", "/v2/models/credit-fraud/versions/2"):
        yield call("GET", path), 404
    yield call("POST", "/v2/models/another/infer", json={"inputs": [tensor([VALUES])]}), 404
    yield call("POST", "/v2/models/credit-fraud/versions/2/infer", json={}), 404
    yield call("POST", "/v2/models", json={}), 405
    yield call("GET", INFER), 405
    yield call("POST", INFER, content=b" " * ((16 << 20) + 1)), 413
    yield call("POST", INFER, content=b"x", headers={"content-encoding": "gzip"}), 415
    yield call("GET", "/v2/models", headers={"x-large": "x" * (17 << 10)}), 431
    yield call("GET", f"/v2/models?{'x' * (9 << 10)}"), 414
    yield call("POST", INFER, content=b"{}", headers={"inference-header-content-length": "-1"}), 400
    yield call("POST", INFER, content=b"{}", headers={"inference-header-content-length": "3"}), 400
    late = {"x-request-timeout-ms": "1"}
    large = json.dumps({"inputs": [tensor([VALUES] * 10_000)]})
    yield call("POST", INFER, content=large, headers=late), 503


def test_every_error_below_v2_has_the_form_that_the_clients_read(
    service: Service, empty: Service
) -> None:
    for answer, status in failing(service):
        assert (answer.status_code, answer.request.url.path) == (status, answer.request.url.path)
        assert error(answer)
    for path in ("/v2/health/ready", "/v2/models/credit-fraud", "/v2/models/credit-fraud/ready"):
        answer = HTTP.get(empty.url + path)
        assert (answer.status_code, error(answer)) == (503, "no model promoted")
    assert HTTP.get(f"{empty.url}/v2/health/live").json() == {"live": True}
    assert HTTP.get(f"{empty.url}/v2/models").json() == {"models": []}


def test_a_malformed_request_to_v2_is_answered_in_its_form(service: Service) -> None:
    with Wire(service) as wire:
        wire.socket.sendall(b"GET /v2/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n")
        status, headers, body = wire.answer()
    assert (status, headers["content-type"], list(body)) == (400, "application/json", ["error"])


def test_a_connection_survives_a_refused_inference(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    for body, status in ((b"{", 400), (json.dumps({"inputs": [tensor([VALUES])]}).encode(), 200)):
        connection.request("POST", INFER, body)
        answer = connection.getresponse()
        answer.read()
        # http.client drops its socket when the answer has `Connection: close`.
        assert (answer.status, connection.sock is not None) == (status, True)
    connection.close()


def test_inferences_and_refusals_are_counted_under_one_label(service: Service) -> None:
    before = service.metrics()
    infer(service, tensor([VALUES]))
    infer(service, tensor([[1e9] * FEATURES, VALUES]))
    infer(service, tensor([VALUES], datatype=CARD))
    label = 'endpoint="/v2/models/infer"'
    counted = {
        f'http_requests_total{{{label},method="POST",status="200"}}': 1,
        f'http_requests_total{{{label},method="POST",status="400"}}': 2,
        f'fraudops_transactions_refused_total{{{label},field="V1",reason="above_maximum"}}': 1,
        f'fraudops_transactions_refused_total{{{label},field="(body)",reason="wrong_type"}}': 1,
    }

    def grown() -> None:
        after = service.metrics()
        assert {name: after[name] - before.get(name, 0) for name in counted} == counted

    eventually(grown)
