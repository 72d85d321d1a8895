"""The types of requests, answers and routes, and the table of errors."""

from typing import Any

import msgspec
import pytest

from fraudops.errors import FraudopsError
from services.inference.http.error_answers import error_response, problem_response, speaks_v2
from services.inference.http.messages import BodyRule, HttpRequest, HttpResponse, Route
from services.inference.http.problems import (
    BusyError,
    DeadlinePassedError,
    EncodedBodyError,
    HeadTooLargeError,
    MissingCredentialError,
    NotHttpError,
    RateLimitedError,
    ScopeError,
    SlowHeadError,
    UnknownCredentialError,
    UrlTooLongError,
)
from services.inference.reading.faults import FieldFault, InvalidBodyError


async def test_a_handler_takes_a_request_and_returns_an_answer() -> None:
    async def handler(_: object, request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body, request_id=request.request_id)

    rule = BodyRule(limit=64)
    route = Route(
        "POST", "/a", handler, "public", "predict", "/a", "Do a.", "predictions", rule, None, None
    )
    request = HttpRequest("POST", route, {}, {}, b"x", None, "r-1", None, 0.0, None, None, None)
    context: Any = None
    assert await request.route.handler(context, request) == (
        *(b"x", 200, b"application/json", (), "r-1", None),
    )
    assert (rule.media, rule.required, rule.permits, rule.stream) == ("json", True, None, False)


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (NotHttpError("it has a bare line feed"), 400, None),
        (UrlTooLongError(8 << 10), 414, None),
        (HeadTooLargeError(16 << 10, 100), 431, None),
        (SlowHeadError(10), 408, None),
        (EncodedBodyError(), 415, (b"accept-encoding", b"identity")),
        (BusyError(), 503, (b"retry-after", b"1")),
        (DeadlinePassedError(), 503, None),
        (MissingCredentialError(), 401, (b"www-authenticate", b"Bearer")),
        (UnknownCredentialError(), 401, (b"www-authenticate", b"Bearer")),
        (ScopeError("feedback"), 403, None),
        (RateLimitedError(0.2), 429, (b"retry-after", b"1")),
        (RateLimitedError(3.2), 429, (b"retry-after", b"4")),
    ],
)
def test_each_error_of_the_boundary_has_its_status(
    error: FraudopsError, status: int, header: tuple[bytes, bytes] | None
) -> None:
    answered, headers, body = problem_response(error)
    assert answered == status
    assert headers[1:] == ([header] if header else [])
    assert msgspec.json.decode(body)["detail"] == str(error)
    for_clients = error_response(error, "/v2/models")
    assert for_clients[:2] == (status, [(b"content-type", b"application/json"), *headers[1:]])
    assert msgspec.json.decode(for_clients[2]) == {"error": str(error)}


def test_a_refused_body_and_a_defect_have_the_form_of_the_inference_protocol() -> None:
    refused = InvalidBodyError([FieldFault(reason="is empty", code="empty")])
    status, headers, body = error_response(refused, "/v2/models/m/infer")
    assert (status, headers) == (400, [(b"content-type", b"application/json")])
    assert msgspec.json.decode(body) == {"error": "the body is empty"}
    assert error_response(refused, "/predict")[0] == 422
    status, _, body = error_response(ValueError("a secret"), "/v2")
    assert (status, b"secret" in body, list(msgspec.json.decode(body))) == (500, False, ["error"])


def test_only_paths_of_the_inference_protocol_have_its_form() -> None:
    assert all(map(speaks_v2, ("/v2", "/v2/", "/v2/models", "/v2?a", "/v2/x?b")))
    assert not any(map(speaks_v2, ("", "/", "/v", "/v2x", "/v1", "/predict", "/a/v2")))
