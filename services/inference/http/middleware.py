"""What every request passes: its id, its limits, its count.

Calls with a body are answered here, below FastAPI's router, which alone would cost more than the
answer; everything else goes on to FastAPI.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraudops.errors import FraudopsError
from fraudops.ids import uuid7
from services.inference.failures import FailureLog
from services.inference.http.admin_auth import Admin
from services.inference.http.problems import (
    BodyTooLargeError,
    CutOffError,
    NotJsonError,
    SlowBodyError,
    WrongMethodError,
    problem_response,
)
from services.inference.metrics import Metrics
from services.inference.model import Serving
from services.inference.pod.worker import Drain, Worker
from services.inference.reading.identifiers import is_identifier

JSON = (b"content-type", b"application/json")
BODY_SECONDS = 30.0
SINGLE_BYTES = 64 << 10
Headers = list[tuple[bytes, bytes]]


class Call:
    """One request with a body.

    `request_id` is the client's own, if it sent a usable one; `started` is perf_counter's;
    `serving` is what was served when the request began, before its body was read.
    """

    __slots__ = ("body", "request_id", "serving", "started")

    def __init__(
        self, started: float, body: bytes, request_id: str | None, serving: Serving | None
    ) -> None:
        self.started, self.body, self.request_id, self.serving = started, body, request_id, serving


class EndpointResponse(NamedTuple):
    body: bytes
    request_id: str
    status: int = 200


@dataclass(frozen=True)
class Endpoint:
    """A POST with a JSON body of at most `limit` bytes;

    `gate` bounds how many bodies are in memory at once; `admin` asks for the token first.
    """

    answer: Callable[[Call], Awaitable[EndpointResponse]]
    limit: int
    admin: bool = False
    body_required: bool = True
    gate: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)


class RequestMiddleware:
    """The outermost of our own code, as FastAPI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        worker: Worker,
        endpoints: Mapping[str, Endpoint],
        pages: Sequence[str],
        metrics: Metrics,
        drain: Drain,
        admin: Admin,
        failures: FailureLog,
    ) -> None:
        self._failures = failures
        self._app, self._worker, self._endpoints, self._metrics, self._drain = (
            app,
            worker,
            endpoints,
            metrics,
            drain,
        )
        self._pages = frozenset(pages)
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._pass_on(scope, receive, send, started)
            return
        status = 500
        try:
            status, headers, body = await self._answer(endpoint, scope, receive, started)
        finally:
            self._metrics.answered(scope["method"], scope["path"], status, perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, endpoint: Endpoint, scope: Scope, receive: Receive, started: float
    ) -> tuple[int, Headers, bytes]:
        known = _known_headers(scope["headers"])
        request_id, serving = client_id(known.get(b"x-request-id")), self._worker.serving
        try:
            if endpoint.admin:
                self._admin.check_port(scope)
            if scope["method"] != "POST":
                raise WrongMethodError("POST")
            if endpoint.admin:
                self._admin.check_token(known.get(b"authorization", b""))
            content_type = known.get(b"content-type", b"")
            if not is_json(content_type) and (content_type or endpoint.body_required):
                raise NotJsonError
            async with endpoint.gate:
                body = await _read_body(receive, known.get(b"content-length"), endpoint.limit)
                answer = await endpoint.answer(Call(started, body, request_id, serving))
            status, headers, content, request_id = (
                answer.status,
                [JSON],
                answer.body,
                answer.request_id,
            )
        except Exception as error:  # noqa: BLE001 (logged once a kind and period)
            # The boundary of one request: its client gets an answer whatever failed.
            status, headers, content = self._problem(error)
            if b"expect" in known:
                # The client waits with its body, and may not send it at all: what comes next would
                # be taken for it.
                headers.append((b"connection", b"close"))
        headers.append((b"content-length", b"%d" % len(content)))
        self._finish(headers, request_id or uuid7())
        return status, headers, content

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        known = _known_headers(scope["headers"])
        request_id = client_id(known.get(b"x-request-id")) or uuid7()
        status, begun = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                headers: Headers = list(message.get("headers", []))
                self._finish(headers, request_id)
                message["headers"] = headers
            await send(message)

        try:
            self._admin.admit_page(scope, known.get(b"authorization", b""))
            await self._app(scope, receive, watched)
        except Exception as error:
            code, refusal, body = self._problem(error)
            if begun:
                raise  # the server cuts off an answer that has begun
            await watched(
                {
                    "type": "http.response.start",
                    "status": code,
                    "headers": [*refusal, (b"content-length", b"%d" % len(body))],
                }
            )
            await watched({"type": "http.response.body", "body": body})
        finally:
            path = scope["path"] if scope["path"] in self._pages else "other"
            self._metrics.answered(scope["method"], path, status, perf_counter() - started)

    def _problem(self, error: Exception) -> tuple[int, Headers, bytes]:
        """Status, headers and body for the client. A defect of the service is logged."""
        if not isinstance(error, FraudopsError):
            self._failures.note(error)
        return problem_response(error)

    def _finish(self, headers: Headers, request_id: str) -> None:
        headers.append((b"x-request-id", request_id.encode()))
        if self._drain.active:
            headers.append((b"connection", b"close"))


_KNOWN = frozenset(
    {b"expect", b"content-type", b"content-length", b"x-request-id", b"authorization"}
)


def _known_headers(headers: Headers) -> dict[bytes, bytes]:
    return {name: value for name, value in headers if name in _KNOWN}


def is_json(content_type: bytes) -> bool:
    return content_type == JSON[1] or content_type.partition(b";")[0].strip().lower() == JSON[1]


def client_id(value: bytes | None) -> str | None:
    """None when the client sent none, or one that could carry more than an id."""
    text = value.decode("latin-1") if value else ""
    return text if is_identifier(text) else None


async def _read_body(receive: Receive, announced: bytes | None, limit: int) -> bytes:
    """Raises BodyTooLargeError as soon as the limit is passed, whether or not the length was
    announced, SlowBodyError, CutOffError.
    """
    if announced and announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(limit)
    body, more = await _read_part(receive)
    if more:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_rest(receive, body, limit)
        except TimeoutError as error:
            raise SlowBodyError(BODY_SECONDS) from error
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    return body


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more and size <= limit:
        part, more = await _read_part(receive)
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _read_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CutOffError
    return message.get("body", b""), message.get("more_body", False)
