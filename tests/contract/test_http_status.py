"""The HTTP contract of status, administration, documentation and metrics.

It is checked against real workers.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from fraudops.audit.records import Prediction
from fraudops.model.manifest import read_manifest
from fraudops.schema import load_schema
from services.inference.http.openapi import statuses
from services.inference.http.routes import ROUTES
from services.inference.metrics import CLIENT_REASONS, CONNECTION_REASONS
from tests.support.http_client import HTTP
from tests.support.serving import BANK, BANK_ROW, TOKEN, ULB_ROW, Service, problem
from tests.support.waiting import eventually

CARD = "4111111111111111"


def test_ready_and_model_info_name_the_model_of_every_worker(service: Service) -> None:
    ready = service.ready()
    assert ready.keys() == {"status", "epoch", "version", "digest", "workers"}
    assert [(worker["epoch"], worker["version"]) for worker in ready["workers"]] == [(1, "1")] * 2
    info = HTTP.get(f"{service.url}/model_info").json()
    model = {
        "name": "credit-fraud",
        "alias": "production",
        "version": "1",
        "digest": ready["digest"],
        "epoch": 1,
        "source": "cache",
        "trained_on_sample": True,
        "schema_fingerprint": info["model"]["schema_fingerprint"],
        "credentials": {
            "state": "signed",
            "signer": service.key.public.id,
            "waived_by": None,
            "waiver_reason": None,
        },
    }
    manifest = read_manifest(service.state.bundles / ready["digest"], ready["digest"])
    assert info["model"]["schema_fingerprint"] == manifest.schema_fingerprint
    assert info == {
        "model": model,
        "audit": "spool",
        "challenger": None,
        "errors": {"alias": None, "stage": None},
    }


def test_without_a_model_the_service_lives_and_says_what_is_missing(empty: Service) -> None:
    assert HTTP.get(f"{empty.url}/health").json() == {"status": "ok"}
    assert empty.not_ready() == "no model promoted"
    answer = empty.predict()
    assert (answer.status_code, problem(answer)["detail"]) == (503, "no model promoted")
    info = HTTP.get(f"{empty.url}/model_info").json()
    nothing = {
        "version": None,
        "digest": None,
        "epoch": 0,
        "source": None,
        "trained_on_sample": None,
        "schema_fingerprint": None,
        "credentials": None,
    }
    assert info["model"] == {"name": "credit-fraud", "alias": "production", **nothing}


def test_reload_requires_the_admin_token(service: Service, empty: Service) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ):
        answer = HTTP.post(f"{service.url}/reload", json={}, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        problem(answer)
    off = HTTP.post(f"{empty.url}/reload", json={}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert off.status_code == 403
    assert "FRAUDOPS_ADMIN_TOKEN" in problem(off)["detail"]


def test_reload_refuses_unknown_and_invalid_bodies(service: Service) -> None:
    for body in (
        {"phase": "explode"},
        {"version": "--cached"},
        {"digest": "../../etc"},
        {"epoch": 0},
        {"phase": "prepare", "version": "1"},
    ):
        answer = service.reload(**body)
        assert answer.status_code == 422, body
        problem(answer)


def test_wrong_paths_and_methods_are_problems_too(service: Service) -> None:
    assert problem(HTTP.get(f"{service.url}/nowhere"))["status"] == 404
    for method, path, allowed in (
        ("GET", "/predict", "POST, OPTIONS"),
        ("DELETE", "/reload", "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
    ):
        answer = HTTP.request(method, service.url + path)
        assert (problem(answer)["status"], answer.headers["allow"]) == (405, allowed)


def test_the_documentation_shows_the_schema_of_the_served_model(
    service: Service, empty: Service
) -> None:
    schemas = HTTP.get(f"{service.url}/openapi.json").json()["components"]["schemas"]
    transaction = schemas["Transaction"]
    assert list(transaction["properties"]) == [*load_schema().names, "transaction_id", "entity_key"]
    assert transaction["properties"]["Amount"]["minimum"] == 0
    assert transaction["required"] == list(load_schema().names)
    assert transaction["additionalProperties"] is False
    generic = HTTP.get(f"{empty.url}/openapi.json").json()["components"]["schemas"]["Transaction"]
    assert "No model is served yet" in generic["description"]
    for page in ("/docs", "/redoc"):
        assert "openapi.json" in HTTP.get(service.url + page).text


def test_the_documentation_names_every_call_and_every_reference_resolves(service: Service) -> None:
    document = HTTP.get(f"{service.url}/openapi.json").json()
    assert document["paths"].keys() == {
        "/health",
        "/ready",
        "/model_info",
        "/metrics",
        "/predict",
        "/predict/batch",
        "/feedback",
        "/reload",
        "/drain",
        "/bundles/{digest}/{name}",
        "/bundles/{digest}.credentials.json",
        "/spool/{name}",
        "/spool/aside/{name}",
        "/spool/newer/{name}",
    }
    names = re.findall(r'"#/components/schemas/([A-Za-z]+)"', json.dumps(document))
    assert {name for name in names if name not in document["components"]["schemas"]} == set()


def test_the_openapi_document_has_every_route_and_every_status(service: Service) -> None:
    document = HTTP.get(f"{service.url}/openapi.json").json()
    for route in ROUTES:
        if route.documented:
            operation = document["paths"][route.path][route.method.lower()]
            assert {int(status) for status in operation["responses"]} == statuses(route)
    predict = document["paths"]["/predict"]["post"]["responses"]
    assert predict.keys() >= {"200", "400", "401", "403", "408", "413", "415", "422", "429", "431"}
    assert document["paths"]["/reload"]["post"]["security"] == [{"admin": []}]
    assert document["paths"]["/metrics"]["get"]["security"] == []


def test_a_bank_with_other_columns_gets_its_own_contract(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    service = Service(tmp_path_factory.mktemp("bank"), workers=1).promoted(3, BANK)
    try:
        assert service.predict(BANK_ROW).status_code == 200
        assert problem(service.predict(ULB_ROW))["status"] == 422
        document = HTTP.get(f"{service.url}/openapi.json").json()
        assert document["components"]["schemas"]["Transaction"]["required"] == list(BANK.names)
        (record,) = service.audited()
        assert isinstance(record, Prediction)
        assert record.features == BANK_ROW
    finally:
        service.stop()


def test_metrics_count_every_worker_and_every_answer_once(service: Service) -> None:
    before = service.metrics()
    answers = 40
    with ThreadPoolExecutor(8) as threads:
        probabilities = [
            answer.json()["prediction"]
            for answer in threads.map(lambda _: service.predict(), range(answers))
        ]
    service.predict({})
    rows = [ULB_ROW, {}, {"V1": CARD}, ULB_ROW | {CARD: 1}]
    service.post("/predict/batch", msgspec.json.encode({"transactions": rows}))
    refused = "fraudops_transactions_refused_total{{endpoint={},field={},reason={}}}"
    labels = (
        ('"/predict"', '"V1"', '"missing"'),
        ('"/predict/batch"', '"V1"', '"missing"'),
        ('"/predict/batch"', '"V1"', '"wrong_type"'),
        ('"/predict/batch"', '"(other)"', '"unknown_field"'),
    )

    def counted() -> None:
        after = service.metrics()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        assert (
            grown['http_requests_total{endpoint="/predict",method="POST",status="200"}'] == answers
        )
        assert grown['http_requests_total{endpoint="/predict",method="POST",status="422"}'] == 1
        assert grown['http_request_duration_seconds_count{endpoint="/predict"}'] == answers + 1
        assert [grown[refused.format(*each)] for each in labels] == [1, 1, 1, 1]
        assert grown['fraudops_predictions_total{decision="fraud"}'] == sum(probabilities)
        assert grown['fraudops_predictions_total{decision="genuine"}'] == answers - sum(
            probabilities
        )
        assert (
            after["fraudops_serving_epoch"],
            after["fraudops_serving_version"],
            after["fraudops_workers"],
        ) == (1, 1, 2)
        assert after["fraudops_spool_bytes"] > 0
        assert (
            after["fraudops_ready"],
            after["fraudops_workers_wanted"],
            after["fraudops_model_trained_on_sample"],
        ) == (1, 2, 1)
        assert (after["fraudops_record_epoch"], after["fraudops_record_mirrored_epoch"]) == (1, 1)
        assert after["fraudops_record_read_timestamp_seconds"] == pytest.approx(time.time(), abs=60)

    eventually(counted)


def test_metrics_have_no_label_that_a_client_can_invent(service: Service) -> None:
    for path in ("/a", "/b", f"/{CARD}"):
        HTTP.get(service.url + path)
    HTTP.request("PROPFIND", f"{service.url}/predict")
    service.predict({CARD: 1})
    text = HTTP.get(f"{service.url}/metrics").text
    # Prometheus sees no increase of a counter that begins at 1.
    for reason in CLIENT_REASONS:
        assert f'fraudops_client_refused_total{{reason="{reason}"}} 0.0' in text
    for reason in CONNECTION_REASONS:
        assert f'fraudops_connections_refused_total{{reason="{reason}"}} 0.0' in text
    assert 'endpoint="other",method="GET",status="404"' in text
    assert 'method="other",status="405"' in text
    assert CARD not in text
