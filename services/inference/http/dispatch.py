"""The ASGI application of a worker: it finds the route of a request and answers it.

The order is: route, method, credential, media type, body, permit, deadline, handler. No byte of a
body is read before the credential is checked.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from time import perf_counter
from typing import Any

from fraudops.errors import FraudopsError
from fraudops.ids import uuid7
from services.inference.http.access_log import AccessLog
from services.inference.http.admin_auth import Admin
from services.inference.http.bodies import SINGLE_BYTES, BodyReader, Receive
from services.inference.http.context import ServiceContext
from services.inference.http.cors import Cors
from services.inference.http.error_answers import error_response
from services.inference.http.exchange import Exchange, Scope
from services.inference.http.media import is_encoded, is_json
from services.inference.http.messages import BodyRule, HttpRequest, HttpResponse, Route
from services.inference.http.problems import (
    CLOSING,
    DeadlinePassedError,
    EncodedBodyError,
    Headers,
    NoSuchEndpointError,
    NotJsonError,
    StoppingError,
    WrongMethodError,
)
from services.inference.http.route_table import FoundPath, Port, RouteTable
from services.inference.http.routes import ROUTES

Message = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]


class Dispatcher:
    """Answers every request that does not take the fast path."""

    def __init__(
        self,
        context: ServiceContext,
        admin: Admin,
        cors: Cors,
        access_log: AccessLog,
        life: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`life` runs from the start of the worker to its end."""
        self._context, self._admin, self._cors = context, admin, cors
        self._access_log, self._life = access_log, life
        ports: tuple[Port, ...] = ("public", "admin", "both")
        self._tables = {port: RouteTable(ROUTES, port) for port in ports}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, self._admin.port_of(scope["server"]))
            exchange.serving = self._context.worker.serving
            await self._http(exchange, send)
            return
        await receive()
        async with self._life():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, exchange: Exchange, send: Send) -> None:
        try:
            response = await self._answer(exchange)
        except asyncio.CancelledError:
            # The server stops, and has no more time for this request. uvicorn would answer 500.
            response = self._problem(exchange, StoppingError())
        except Exception as error:  # noqa: BLE001 (logged once a kind and period)
            # The boundary of one request: its client gets an answer to every failure.
            response = self._problem(exchange, error)
        exchange.more_headers += self._cors.headers(exchange.headers, exchange.route)
        headers = self._headers(exchange, response)
        self._count(exchange, response)
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        if response.stream is None:
            await self._send_body(exchange, start, response.body, send)
        else:
            await _send_stream(exchange, start, response.stream, send)

    async def _answer(self, exchange: Exchange) -> HttpResponse:
        table = self._tables[exchange.port]
        if exchange.path == "*" and exchange.method == "OPTIONS":
            return _allow(", ".join(table.methods))
        found = table.find(exchange.path)
        if found is None:
            raise NoSuchEndpointError
        exchange.label = found.label
        if exchange.method == "OPTIONS":
            return self._options(exchange, found)
        route = found.methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if route is None:
            raise WrongMethodError(found.allowed)
        exchange.route = route
        await self._admit(exchange, route)
        if route.body is None:
            return await self._handle(exchange, route, found.parameters, b"")
        return await self._with_body(exchange, route, route.body, found.parameters)

    def _options(self, exchange: Exchange, found: FoundPath) -> HttpResponse:
        exchange.route = next(iter(found.methods.values()))
        exchange.more_headers += self._cors.preflight(
            exchange.headers, exchange.route, found.allowed
        )
        return _allow(found.allowed)

    async def _admit(self, exchange: Exchange, route: Route) -> None:
        """Check the credential. The admin port needs no credential of a client."""
        if route.scope == "admin":
            self._admin.check_token(exchange.headers.get(b"authorization", b""))
        elif route.scope and exchange.port != "admin":
            verified = await self._context.clients.verify(exchange.headers, route.scope)
            exchange.client = verified.name if verified else None

    async def _with_body(
        self, exchange: Exchange, route: Route, rule: BodyRule, parameters: dict[str, str]
    ) -> HttpResponse:
        context = self._context
        _check_media(rule, exchange.headers)
        reader = BodyReader(exchange.receive, exchange.arrival, context.limits.body_seconds)
        if rule.stream:
            return await self._handle(exchange, route, parameters, b"", reader.parts())
        most = rule.limit if exchange.announced is None else exchange.announced
        with context.budget.body(single=most <= SINGLE_BYTES) as held:
            body = await reader.whole(rule.limit, exchange.announced, held, context.budget)
            arrival = exchange.arrival
            if arrival.split and arrival.received:
                context.metrics.uploaded(route.label, arrival.received - arrival.head)
            permits = rule.permits if len(body) > rule.permits_above else None
            async with context.permits[permits].taken() if permits else nullcontext():
                return await self._handle(exchange, route, parameters, body)

    async def _handle(
        self,
        exchange: Exchange,
        route: Route,
        parameters: dict[str, str],
        body: bytes,
        stream: AsyncIterator[bytes] | None = None,
    ) -> HttpResponse:
        deadline = exchange.deadline
        if deadline is not None and perf_counter() > deadline:
            raise DeadlinePassedError
        request = HttpRequest(
            method=exchange.method,
            route=route,
            parameters=parameters,
            headers=exchange.headers,
            body=body,
            stream=stream,
            request_id=exchange.request_id,
            client=exchange.client,
            received=exchange.arrival.received or exchange.started,
            deadline=deadline,
            serving=exchange.serving,
            traceparent=exchange.traceparent,
        )
        return await route.handler(self._context, request)

    def _problem(self, exchange: Exchange, error: Exception) -> HttpResponse:
        """Return the answer to an error. A defect of the service is logged."""
        exchange.request_id = exchange.request_id or uuid7()
        if isinstance(error, DeadlinePassedError):
            self._context.metrics.shed(exchange.label)
        elif not isinstance(error, FraudopsError):
            self._context.failures.note(error, exchange.request_id)
        status, headers, body = error_response(error, exchange.path)
        return HttpResponse(body, status, media=b"", headers=tuple(headers))

    def _headers(self, exchange: Exchange, response: HttpResponse) -> Headers:
        exchange.request_id = response.request_id or exchange.request_id or uuid7()
        headers: Headers = []
        if response.media and response.status != 204:
            headers.append((b"content-type", response.media))
        headers += response.headers
        if response.stream is None and response.status != 204:
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers.append((b"x-request-id", exchange.request_id.encode()))
        if exchange.traceparent:
            headers.append((b"traceparent", exchange.traceparent))
        headers += exchange.more_headers
        # What is left of a body could be taken for the next request.
        unread = exchange.arrival.received is None
        if unread or response.status in CLOSING or self._context.drain.active:
            headers.append((b"connection", b"close"))
        return headers

    def _count(self, exchange: Exchange, response: HttpResponse) -> None:
        seconds = exchange.seconds
        self._context.metrics.answered(exchange.method, exchange.label, response.status, seconds)
        if self._access_log.enabled:
            self._access_log.write(
                exchange.method,
                exchange.label,
                response.status,
                seconds,
                len(response.body),
                exchange.request_id or "",
                exchange.client,
                exchange.traceparent,
            )

    async def _send_body(self, exchange: Exchange, start: Message, body: bytes, send: Send) -> None:
        if len(body) <= SINGLE_BYTES or exchange.method == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        await send(start)

        async def write(part: bytes) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})

        # After a return without the end of an answer, uvicorn closes the connection.
        await self._context.answers.write(body, write)


async def _send_stream(
    exchange: Exchange, start: Message, stream: AsyncIterator[bytes], send: Send
) -> None:
    await send(start)
    if exchange.method != "HEAD":
        async for part in stream:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _allow(methods: str) -> HttpResponse:
    return HttpResponse(status=204, headers=((b"allow", methods.encode()),))


def _check_media(rule: BodyRule, headers: Mapping[bytes, bytes]) -> None:
    """Raises NotJsonError, EncodedBodyError."""
    content_type = headers.get(b"content-type", b"")
    if rule.media == "json" and not is_json(content_type) and (content_type or rule.required):
        raise NotJsonError
    if is_encoded(headers.get(b"content-encoding", b"")):
        raise EncodedBodyError
