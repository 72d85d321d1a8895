"""The HTTP contract of predictions and labels, checked against real workers."""

import json
import re
from typing import Any

import pytest

from fraudops.audit.records import LabelRecord, Prediction
from fraudops.client import InferenceClient
from fraudops.ids import timestamp_ms
from fraudops.model.scorer import open_scorer
from tests.support.http_client import HTTP
from tests.support.serving import ULB_ROW, Service, problem

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CARD = "4111111111111111"


def test_predict_answers_the_scorers_own_probability_and_the_decision_at_the_threshold(
    service: Service,
) -> None:
    answer = service.predict()
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {
        "prediction_id",
        "fraud_probability",
        "prediction",
        "model_version",
        "threshold",
    }
    assert UUID7.fullmatch(body["prediction_id"])
    scorer = open_scorer(service.state.bundles / service.ready()["digest"])
    assert body["fraud_probability"] == scorer.score(list(ULB_ROW.values()))
    assert body["prediction"] == int(body["fraud_probability"] >= body["threshold"])
    assert (body["model_version"], body["threshold"]) == ("1", 0.3)


def test_an_answered_prediction_is_in_the_spool_with_all_that_the_audit_table_needs(
    service: Service,
) -> None:
    answer = service.predict(
        ULB_ROW | {"transaction_id": "t:1", "entity_key": "card-7", "Amount": 12.5},
        **{"x-request-id": "r-1"},
    ).json()
    (record,) = [r for r in service.audited() if r.id == answer["prediction_id"]]
    assert isinstance(record, Prediction)
    assert record.features == ULB_ROW | {"Amount": 12.5}
    assert (record.transaction_id, record.entity_key, record.request_id, record.pod) == (
        "t:1",
        "card-7",
        "r-1",
        "local",
    )
    assert (record.fraud_probability, record.prediction, record.threshold) == (
        answer["fraud_probability"],
        answer["prediction"],
        0.3,
    )
    assert (record.model_name, record.model_version, record.model_digest) == (
        "credit-fraud",
        "1",
        service.ready()["digest"],
    )
    assert 0 < record.latency_ms < 10_000
    assert timestamp_ms(record.id) > 1.7e12


def test_a_request_id_is_accepted_or_made_and_always_returned(service: Service) -> None:
    assert (
        service.predict(**{"x-request-id": "abc:1.2_3-4"}).headers["x-request-id"] == "abc:1.2_3-4"
    )
    for unusable in ("two words", "x" * 65, "", CARD + "\t1"):
        assert UUID7.fullmatch(
            service.predict(**{"x-request-id": unusable}).headers["x-request-id"]
        )
    answer = service.predict()
    assert answer.headers["x-request-id"] == answer.json()["prediction_id"]
    assert (
        HTTP.get(f"{service.url}/health", headers={"x-request-id": "h"}).headers["x-request-id"]
        == "h"
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"V1": "1"}, "V1"),
        ({"V1": True}, "V1"),
        ({"V1": None}, "V1"),
        ({"Amount": -0.01}, "Amount"),
        ({"extra": 1}, "extra"),
        ({"entity_key": "a b"}, "entity_key"),
    ],
)
def test_a_bad_transaction_is_refused_with_its_field(
    service: Service, change: dict[str, Any], field: str
) -> None:
    answer = service.predict(ULB_ROW | change)
    assert answer.status_code == 422
    assert [fault["field"] for fault in problem(answer)["errors"]] == [field]


def test_missing_and_not_finite_values_are_refused_with_their_fields(service: Service) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        answer = service.post(
            "/predict", json.dumps(ULB_ROW).replace('"V3": 0.25', f'"V3": {value}')
        )
        assert answer.status_code == 422
        assert problem(answer)["errors"] == [
            {"field": "V3", "reason": "must be a finite number", "code": "not_finite"}
        ]
    missing = service.predict({name: value for name, value in ULB_ROW.items() if name != "Amount"})
    assert problem(missing)["errors"] == [
        {"field": "Amount", "reason": "is missing", "code": "missing"}
    ]


def test_no_answer_and_no_log_line_ever_repeats_a_card_number(service: Service) -> None:
    bodies = [
        ULB_ROW | {"V1": CARD},
        ULB_ROW | {CARD: 1},
        ULB_ROW | {f"card_{CARD}": 1},
        ULB_ROW | {"transaction_id": f"{CARD} x"},
        {"transactions": [CARD]},
    ]
    for path in ("/predict", "/predict/batch", "/feedback"):
        for body in bodies:
            answer = service.post(path, json.dumps(body))
            assert answer.status_code == 422
            assert CARD not in answer.text
    assert service.post("/predict", f'{{"V1": {CARD}').status_code == 422
    HTTP.get(f"{service.url}/{CARD}")
    assert CARD not in service.log


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"{", "is not valid JSON"),
        (b"\xff{}", "is not UTF-8"),
        (b"[]", "must be an object"),
        (b"[" * 20_000, "is nested too deeply"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    service: Service, content: bytes, reason: str
) -> None:
    answer = service.post("/predict", content)
    assert answer.status_code == 422
    assert problem(answer)["errors"][0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/feedback"])
def test_a_body_that_is_not_declared_as_json_is_415(
    service: Service, path: str, content_type: str | None
) -> None:
    answer = service.post(path, json.dumps(ULB_ROW), content_type)
    assert answer.status_code == 415
    assert "application/json" in problem(answer)["detail"]


def test_json_with_parameters_is_json(service: Service) -> None:
    assert (
        service.post("/predict", json.dumps(ULB_ROW), "Application/JSON; charset=utf-8").status_code
        == 200
    )


def test_a_batch_is_answered_in_its_order_and_as_single_calls_are(service: Service) -> None:
    rows = [ULB_ROW | {"Amount": amount, "transaction_id": f"b-{amount}"} for amount in range(600)]
    answer = service.post("/predict/batch", json.dumps({"transactions": rows}))
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert len({scored["prediction_id"] for scored in predictions}) == len(rows)
    probabilities = [scored["fraud_probability"] for scored in predictions]
    for index in (7, 400):
        assert probabilities[index] == pytest.approx(
            service.predict(rows[index]).json()["fraud_probability"], abs=1e-12
        )
    audited = {record.id: record for record in service.audited() if isinstance(record, Prediction)}
    assert [audited[scored["prediction_id"]].transaction_id for scored in predictions] == [
        row["transaction_id"] for row in rows
    ]
    assert {audited[scored["prediction_id"]].request_id for scored in predictions} == {
        answer.headers["x-request-id"]
    }


def test_a_batch_with_bad_rows_scores_none_of_them_and_names_each(service: Service) -> None:
    before = len(service.audited())
    rows = [ULB_ROW, ULB_ROW | {"V2": "x"}, ULB_ROW, ULB_ROW | {"V9": None}, 5]
    answer = service.post("/predict/batch", json.dumps({"transactions": rows}))
    assert answer.status_code == 422
    assert [(fault["index"], fault.get("field")) for fault in problem(answer)["errors"]] == [
        (1, "V2"),
        (3, "V9"),
        (4, None),
    ]
    many = service.post("/predict/batch", json.dumps({"transactions": [{}] * 500}))
    assert [fault["index"] for fault in problem(many)["errors"]] == list(range(100))
    late = service.post("/predict/batch", json.dumps({"transactions": [*[ULB_ROW] * 400, {}]}))
    assert {fault["index"] for fault in problem(late)["errors"]} == {400}
    assert len(service.audited()) == before


def test_ten_thousand_rows_are_one_batch_and_one_more_is_refused(service: Service) -> None:
    rows = [ULB_ROW] * 10_000
    answer = service.post("/predict/batch", json.dumps({"transactions": rows}))
    assert len(answer.json()["predictions"]) == 10_000
    refused = service.post("/predict/batch", json.dumps({"transactions": [*rows, ULB_ROW]}))
    assert problem(refused)["errors"] == [
        {
            "field": "transactions",
            "reason": "must hold at most 10000 rows",
            "code": "too_many_rows",
        }
    ]


def test_labels_are_accepted_and_spooled_and_the_same_label_again_is_the_same_row(
    service: Service,
) -> None:
    prediction = service.predict().json()["prediction_id"]
    labels = [
        {
            "prediction_id": prediction.upper(),
            "label": 1,
            "labelled_at": "2026-01-31T12:00:00+02:00",
            "source": "chargeback",
        },
        {
            "transaction_id": "unknown-yet",
            "label": 0,
            "labelled_at": "2026-01-31T12:00:00Z",
            "source": "review",
        },
    ]
    for _ in range(2):
        answer = service.post("/feedback", json.dumps({"labels": labels}))
        assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    spooled = [record for record in service.audited() if isinstance(record, LabelRecord)]
    assert len(spooled) == 4
    assert len({record.id for record in spooled}) == 2
    assert prediction in {record.prediction_id for record in spooled}
    refused = service.post("/feedback", json.dumps({"labels": [*labels, labels[0] | {"label": 3}]}))
    assert problem(refused)["errors"] == [
        {"index": 2, "field": "label", "reason": "must be at most 1", "code": "above_maximum"}
    ]


def test_the_products_own_client_speaks_this_contract(service: Service) -> None:
    with InferenceClient(service.url) as client:
        client.ready()
        one = client.predict(ULB_ROW, transaction_id="c-1")
        many = client.predict_batch([ULB_ROW, ULB_ROW])
    assert one.fraud_probability == pytest.approx(many[1].fraud_probability)
