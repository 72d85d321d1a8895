"""Authentication of clients on both paths: the fast one, and that of all other requests."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fraudops.api_keys import ApiKey, digest_of, new_api_key, write_api_keys
from fraudops.audit.records import LabelRecord, Prediction
from tests.support.file_server import Served, serve
from tests.support.http_client import HTTP
from tests.support.serving import TOKEN, ULB_ROW, Service, problem
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key
from tests.support.two_paths import ask, chunked, with_length
from tests.support.waiting import eventually

BODY = json.dumps(ULB_ROW).encode()
JSON = {"content-type": "application/json"}
ISSUED, UNKNOWN = signing_key("ES256", "1"), signing_key("ES256", "2")
ENTRIES: dict[str, dict[str, Any]] = {
    "shop": {"scopes": ("predict", "feedback", "read")},
    "desk": {"scopes": ("read",)},
    "slow": {"scopes": ("predict",), "rate_per_second": 0.01},
    "slower": {"scopes": ("predict",), "rate_per_second": 0.01},
    "batches": {"scopes": ("predict",), "rate_per_second": 0.1},
    "labels": {"scopes": ("feedback",), "rate_per_second": 0.1},
    "tensors": {"scopes": ("predict",), "rate_per_second": 0.1},
    "wrong-batches": {"scopes": ("predict",), "rate_per_second": 0.1},
    "wrong-labels": {"scopes": ("feedback",), "rate_per_second": 0.1},
    "wrong-tensors": {"scopes": ("predict",), "rate_per_second": 0.1},
    "till": {"scopes": ("predict",)},
}
KEYS = {name: new_api_key() for name in (*ENTRIES, "old")}
INFER = "/v2/models/credit-fraud/infer"


def entry(name: str, key: str, **fields: Any) -> ApiKey:
    return ApiKey(name=name, sha256=digest_of(key).hex(), **fields)


def write_keys(path: Path, *more: ApiKey, without: str = "") -> None:
    known = {name: entry(name, KEYS[name], **fields) for name, fields in ENTRIES.items()}
    known.pop(without, None)
    write_api_keys(path, [*known.values(), *more])


def environment(file: Path, mode: str, url: str | None = None) -> dict[str, str]:
    group = {"MODE": mode, "KEYS_FILE": str(file)}
    if url:
        group |= {"JWKS_URL": url, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    return {f"FRAUDOPS_CLIENT_AUTH__{name}": value for name, value in group.items()}


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Run the service with a model, and stop it, also if its start fails."""
    try:
        yield service.promoted(1)
    finally:
        if service.process:
            service.stop()


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path)
    return path


@pytest.fixture(scope="module")
def issuer() -> Iterator[Served]:
    with serve(Served(jwks(ISSUED)), "/jwks.json") as served:
        yield served


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, keys_file: Path, issuer: Served
) -> Iterator[Service]:
    """A service with one worker that requires keys or tokens."""
    required = environment(keys_file, "required", issuer.url)
    started = Service(tmp_path_factory.mktemp("required"), workers=1, environment=required)
    with running(started):
        # Until the worker has read the keys of the issuer, it answers tokens with 503.
        eventually(lambda: send(started, token()).raise_for_status())
        yield started


def send(service: Service, headers: dict[str, str], *, fast: bool = True) -> httpx.Response:
    """Send a transaction, whole at once.

    The fast path takes it if its client is known already. A chunked body leaves the fast path.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    encoding = with_length if fast else chunked
    status, answered, content = ask(service, encoding(BODY, lines))
    request = httpx.Request("POST", f"{service.url}/predict")
    return httpx.Response(status, headers=answered, json=content, request=request)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def token(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {ISSUED.token(**claims).decode()}"}


ALIKE: dict[str, tuple[dict[str, str], int]] = {
    "key": (bearer("shop"), 200),
    "header of its own": ({"X-API-Key": KEYS["shop"]}, 200),
    "small letters": ({"Authorization": f"bearer  {KEYS['shop']}"}, 200),
    "token": (token(), 200),
    "nothing": ({}, 401),
    "both headers": (bearer("shop") | {"X-API-Key": KEYS["shop"]}, 401),
    "unknown key": (bearer("old"), 401),
    "admin token": ({"Authorization": f"Bearer {TOKEN}"}, 401),
    "other scheme": ({"Authorization": f"Basic {KEYS['shop']}"}, 401),
    "expired token": (token(exp=1), 401),
    "unknown issuer's key": ({"Authorization": f"Bearer {UNKNOWN.token().decode()}"}, 401),
    "other scope": (bearer("desk"), 403),
    "token without the scope": (token(scope="read"), 403),
}


@pytest.mark.parametrize("name", ALIKE)
def test_both_paths_admit_and_refuse_alike(service: Service, name: str) -> None:
    headers, status = ALIKE[name]
    # The second time a good credential is known, which the fast path needs.
    answers = [send(service, headers, fast=fast) for fast in (True, True, False)]
    assert [answer.status_code for answer in answers] == [status] * 3
    kinds = [answer.headers.keys() - {"connection"} for answer in answers]
    assert kinds[0] == kinds[1] == kinds[2]
    if status != 200:
        details = {problem(answer)["detail"] for answer in answers}
        assert len(details) == 1
        assert [answer.headers.get("www-authenticate") for answer in answers] == [
            "Bearer" if status == 401 else None
        ] * 3


@pytest.mark.parametrize(("name", "fast"), [("slow", True), ("slower", False)])
def test_a_client_above_its_rate_is_refused_on_both_paths(
    service: Service, name: str, fast: bool
) -> None:
    answers = [send(service, bearer(name), fast=fast) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    for answer in answers[10:]:
        assert problem(answer)["title"] == "Too many requests"
        assert 0 < int(answer.headers["retry-after"]) <= 100
    # The other path knows it too, and other clients do not notice.
    assert send(service, bearer(name), fast=not fast).status_code == 429
    assert send(service, bearer("shop")).status_code == 200


def test_a_batch_and_labels_cost_their_rows(service: Service) -> None:
    rows = json.dumps({"transactions": [ULB_ROW] * 110})
    x = {"name": "x", "shape": [110, len(ULB_ROW)], "datatype": "FP64"}
    tensors = json.dumps({"inputs": [x | {"data": [*ULB_ROW.values()] * 110}]})
    labels = [
        {"transaction_id": f"t{n}", "label": 1, "labelled_at": "2026-01-01T00:00:00Z"}
        for n in range(110)
    ]
    for path, name, body in (
        ("/predict/batch", "batches", rows),
        (INFER, "tensors", tensors),
        ("/feedback", "labels", json.dumps({"labels": [{**x, "source": "s"} for x in labels]})),
    ):

        def post(path: str = path, name: str = name, body: str = body) -> httpx.Response:
            return HTTP.post(service.url + path, content=body, headers=JSON | bearer(name))

        assert post().is_success
        refused = post()
        # 110 rows at 0.1 a second, of which 10 were free, and one for the next request.
        assert (refused.status_code, 990 <= int(refused.headers["retry-after"]) <= 1010) == (
            429,
            True,
        )


def test_a_refused_body_costs_the_rows_that_were_read(service: Service) -> None:
    wrong = ULB_ROW | {"V1": "4111111111111111"}
    width = len(ULB_ROW)
    tensor = {"name": "x", "shape": [110, width], "datatype": "FP64", "data": [1e9] * 110 * width}
    for path, name, body in (
        ("/predict/batch", "wrong-batches", {"transactions": [*[ULB_ROW] * 109, wrong]}),
        (INFER, "wrong-tensors", {"inputs": [tensor]}),
        ("/feedback", "wrong-labels", {"labels": [{"label": 7}, *[{}] * 99]}),
    ):
        answers = [HTTP.post(service.url + path, json=body, headers=bearer(name)) for _ in range(2)]
        assert answers[0].status_code == (400 if path == INFER else 422)
        assert answers[1].status_code == 429
        assert int(answers[1].headers["retry-after"]) >= 890


def test_the_inference_protocol_asks_for_the_scopes_of_its_calls(service: Service) -> None:
    def asked(path: str, client: str | None, method: str = "GET") -> tuple[int, str]:
        headers = bearer(client) if client else {}
        answer = HTTP.request(method, service.url + path, headers=headers, content=b"")
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json().get("error", "")

    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/credit-fraud/ready"):
        assert asked(path, None)[0] == 200
    for path in ("/v2", "/v2/models", "/v2/models/credit-fraud"):
        assert asked(path, None)[0] == 401
        status, reason = asked(path, "tensors")
        assert (status, "scope read" in reason) == (403, True)
    assert asked(INFER, None, "POST")[0] == 401
    status, reason = asked(INFER, "labels", "POST")
    assert (status, "scope predict" in reason) == (403, True)


def test_the_audit_names_the_client_of_predictions_and_labels(service: Service) -> None:
    known = {record.id for record in service.audited()}
    for fast in (True, True, False):
        assert send(service, bearer("shop"), fast=fast).status_code == 200
    assert send(service, token(sub="mallory|1")).status_code == 200
    rows = {"transactions": [ULB_ROW] * 2}
    HTTP.post(f"{service.url}/predict/batch", json=rows, headers=bearer("shop"))
    label = {"transaction_id": "t", "label": 1, "labelled_at": "2026-01-01T00:00:00Z"}
    sent = {"labels": [label | {"source": "desk"}]}
    assert HTTP.post(f"{service.url}/feedback", json=sent, headers=bearer("shop")).is_success
    new = [record for record in service.audited() if record.id not in known]
    clients = [record.client for record in new if isinstance(record, Prediction)]
    assert [name for name in clients if name != "shop"] == [clients[3]]
    assert clients[3] is not None
    assert clients[3].startswith("sub:")
    assert len(clients) == 6
    (found,) = (record for record in new if isinstance(record, LabelRecord))
    assert (found.client, found.source) == ("shop", "desk")


def test_each_route_asks_for_its_own_scope(service: Service) -> None:
    def status(path: str, name: str | None) -> int:
        headers = bearer(name) if name else {}
        return HTTP.get(service.url + path, headers=headers).status_code

    assert [status("/model_info", name) for name in (None, "old", "slow", "desk")] == [
        *(401, 401, 403, 200)
    ]
    for path in ("/health", "/ready", "/openapi.json"):
        assert status(path, None) == 200
    labels = {"labels": []}
    feedback = HTTP.post(f"{service.url}/feedback", json=labels, headers=bearer("slow"))
    assert feedback.status_code == 403
    assert "the scope feedback" in problem(feedback)["detail"]
    # The key of a client opens no admin call.
    reload = HTTP.post(f"{service.url}/reload", json={}, headers=bearer("shop"))
    assert reload.status_code == 401
    assert service.reload(phase="drop", digest="0" * 64).status_code == 200


def test_a_body_is_not_read_before_the_client_is_known(service: Service) -> None:
    body = b"[" * 200
    for headers, status in (({}, 401), (bearer("desk"), 403), (bearer("shop"), 422)):
        answer = HTTP.post(f"{service.url}/predict", content=body, headers=JSON | headers)
        assert answer.status_code == status


def test_refusals_are_counted_by_reason_and_nothing_shows_a_key(service: Service) -> None:
    def counted() -> dict[str, float]:
        metrics = service.metrics()
        reasons = ("missing", "unknown", "scope", "rate")
        return {
            reason: metrics[f'fraudops_client_refused_total{{reason="{reason}"}}']
            for reason in reasons
        }

    before = counted()
    for headers in ({}, bearer("old"), token(exp=1), bearer("desk")):
        send(service, headers)
    after = counted()
    assert {reason: after[reason] - before[reason] for reason in after} == {
        "missing": 1,
        "unknown": 2,
        "scope": 1,
        "rate": 0,
    }
    assert service.metrics()["fraudops_jwks_read_timestamp_seconds"] > 0
    everything = service.log + HTTP.get(f"{service.url}/metrics").text
    for key in KEYS.values():
        assert key not in everything
        assert digest_of(key).hex() not in everything
    for name in ("shop", "desk", "old"):
        assert KEYS[name] not in send(service, bearer(name)).text
    assert "eyJ" not in everything


def test_keys_rotate_without_a_restart_while_clients_send(
    service: Service, keys_file: Path
) -> None:
    first, second = KEYS["till"], new_api_key()
    added = entry("till", second, scopes=("predict",))

    def status(key: str) -> int:
        return send(service, {"X-API-Key": key}).status_code

    def admitted(key: str, wanted: int) -> None:
        assert status(key) == wanted

    admitted(first, 200)
    stop = threading.Event()

    def keep_sending() -> set[int]:
        with httpx.Client(base_url=service.url, headers=JSON | {"X-API-Key": first}) as kept:
            seen = set()
            while not stop.wait(0.05):
                seen.add(kept.post("/predict", content=BODY).status_code)
            # The kept-alive connection does not keep the key.
            seen.add(-kept.post("/predict", content=BODY).status_code)
            return seen

    with ThreadPoolExecutor(16) as threads:
        senders = [threads.submit(keep_sending) for _ in range(16)]
        write_keys(keys_file, added)
        eventually(lambda: admitted(second, 200))
        keys_file.write_text("{")
        eventually(lambda: service.log.index("is no file of API keys"))
        assert (status(first), status(second)) == (200, 200)
        write_keys(keys_file, added, without="till")
        eventually(lambda: admitted(first, 401))
        stop.set()
        seen = set().union(*(sender.result() for sender in senders))
    assert seen == {200, 401, -401} or seen == {200, -401}
    assert status(second) == 200
    assert service.log.count("cannot be used; what was read before stays valid") == 1


def test_with_optional_an_unknown_caller_passes_and_a_wrong_key_does_not(
    tmp_path: Path, keys_file: Path
) -> None:
    write_keys(keys_file)
    optional = environment(keys_file, "optional")
    with running(Service(tmp_path / "optional", workers=1, environment=optional)) as service:
        for fast in (True, False):
            answers = [send(service, headers, fast=fast) for headers in ({}, bearer("shop"))]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert send(service, bearer("old"), fast=fast).status_code == 401
        records = [record for record in service.audited() if isinstance(record, Prediction)]
        assert [record.client for record in records] == [None, "shop"] * 2


@pytest.mark.parametrize("content", [None, "{}", '{"keys": [7]}'])
def test_a_wrong_file_ends_the_start_with_64(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    service = Service(tmp_path / "state", environment=environment(file, "required"))
    service.start(wait=False)
    assert service.process
    try:
        assert service.process.wait(60) == 64
    finally:
        service.kill()
    assert str(file) in service.log
    assert "Traceback" not in service.log
