"""What a setting switches on: the access log, and pages of other origins."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from tests.support.http_client import HTTP
from tests.support.serving import Service
from tests.support.two_paths import BAD, BODY, TRACE, ask, chunked, with_length
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with an access log, to which the pages of one origin may talk."""
    started = Service(
        tmp_path_factory.mktemp("talkative"),
        workers=1,
        environment={
            "FRAUDOPS_HTTP__ACCESS_LOG": "true",
            "FRAUDOPS_HTTP__CORS_ORIGINS": '["https://desk.example"]',
        },
    ).promoted(1)
    yield started
    started.stop()


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Return the lines of the access log about /predict."""
    lines = [json.loads(line) for line in service.log.splitlines()]
    return [
        line
        for line in lines
        if line["logger"] == "services.inference.access" and line["endpoint"] == "/predict"
    ]


@pytest.mark.parametrize(("body", "status"), [(BODY, 200), (BAD, 422)])
def test_both_paths_log_alike(talkative: Service, body: bytes, status: int) -> None:
    before = len(lines_of(talkative))
    more = f"X-Request-Id: logged\r\ntraceparent: {TRACE}\r\nX-Card: 4111111111111111\r\n"
    for encoding in (with_length, chunked):
        request = encoding(body, more).replace(b"/predict", b"/predict?card=4111111111111111", 1)
        ask(talkative, request if encoding is chunked else encoding(body, more))
    lines = eventually(lambda: _two(lines_of(talkative)[before:]))
    for line in lines:
        for name in ("at", "seconds"):
            assert line.pop(name)
        assert line.pop("bytes") > 20
    assert lines[0] == lines[1]
    assert lines[0] == {
        "level": "info",
        "program": "inference",
        "logger": "services.inference.access",
        "message": "answered",
        "method": "POST",
        "endpoint": "/predict",
        "status": status,
        "request_id": "logged",
        "trace_id": TRACE[3:35],
    }
    assert "4111111111111111" not in talkative.log


@pytest.mark.parametrize("encoding", [with_length, chunked])
def test_an_id_that_may_hold_a_card_number_is_logged_as_its_hash(
    talkative: Service, encoding: Any
) -> None:
    sent, before = "order:4111-1111-1111-1111", len(lines_of(talkative))
    _, headers, _ = ask(talkative, encoding(BODY, f"X-Request-Id: {sent}\r\n"))
    # The client needs its own id.
    assert headers["x-request-id"] == sent
    (line,) = eventually(lambda: _some(lines_of(talkative)[before:]))
    assert line["request_id"] == f"id:{sha256(sent.encode()).hexdigest()[:16]}"
    assert sent not in talkative.log


def _some(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert lines
    return lines


def _two(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert len(lines) == 2
    return lines


@pytest.mark.parametrize("encoding", [with_length, chunked])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://desk.example", "https://desk.example"),
        ("https://desk.example.evil", None),
        ("null", None),
    ],
)
def test_only_pages_of_an_allowed_origin_may_read_an_answer(
    talkative: Service, encoding: Any, origin: str, allowed: str | None
) -> None:
    for body in (BODY, BAD):
        _, headers, _ = ask(talkative, encoding(body, f"Origin: {origin}\r\n"))
        assert headers.get("access-control-allow-origin") == allowed
        assert headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in headers


def test_a_preflight_needs_no_credential_and_allows_no_admin_call(talkative: Service) -> None:
    asked = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}
    answer = HTTP.request("OPTIONS", f"{talkative.url}/predict", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
    assert answer.headers["access-control-allow-origin"] == "https://desk.example"
    assert "x-request-timeout-ms" in answer.headers["access-control-allow-headers"]
    for origin, path in (
        ("https://desk.example", "/reload"),
        ("https://other.example", "/predict"),
    ):
        refused = HTTP.request("OPTIONS", talkative.url + path, headers=asked | {"Origin": origin})
        assert not [name for name in refused.headers if name.startswith("access-control")]
