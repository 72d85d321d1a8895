"""A request, its answer, and the route between them.

Handlers take and return these, below ASGI.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from services.inference.http.context import ServiceContext
from services.inference.model import Serving


@dataclass(slots=True, eq=False)
class HttpRequest:
    """A request whose route is known.

    `parameters` are those of the route's path. The names of `headers` are in small letters. `body`
    is whole, or empty with `stream`. `request_id` is the client's, if it sent a usable one, and
    `client` the authenticated client. `received` (the last byte of the body) and `deadline` (the
    client's) are times of perf_counter in seconds. `serving` is what was served when the request
    began. `traceparent` is a well-formed header of W3C Trace Context.
    """

    method: str
    route: "Route"
    parameters: dict[str, str]
    headers: dict[bytes, bytes]
    body: bytes
    stream: AsyncIterator[bytes] | None
    request_id: str | None
    client: str | None
    received: float
    deadline: float | None
    serving: Serving | None
    traceparent: bytes | None


class HttpResponse(NamedTuple):
    """An answer. Without `request_id` it has the request's, or a new one."""

    body: bytes = b""
    status: int = 200
    media: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    request_id: str | None = None
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[ServiceContext, HttpRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True)
class BodyRule:
    """What the body of a route may be.

    `limit` is in bytes. `permits` bounds how many bodies above `permits_above` bytes are worked on
    at the same time. With `stream` the handler reads the body itself.
    """

    limit: int
    media: Literal["json", "any"] = "json"
    required: bool = True
    permits: Literal["batches", "labels"] | None = None
    permits_above: int = 0
    stream: bool = False


@dataclass(frozen=True)
class Route:
    """One row of the table of routes.

    `path` is a template such as `/bundles/{digest}/{name}`. `scope` is that of a client's
    credential, or `admin` for the admin token. `label` is the endpoint in metrics. `request` and
    `response` are the structs in the OpenAPI document, or their media types. `status` is that of a
    success, and `errors` are those that only the handler gives. `scores`: the route scores, and
    refuses a request whose client waits no longer.
    """

    method: str
    path: str
    handler: Handler
    port: Literal["public", "admin", "both"]
    scope: Literal["predict", "feedback", "read", "admin"] | None
    label: str
    summary: str
    tag: str
    body: BodyRule | None = None
    request: Any = None
    response: Any = None
    status: int = 200
    documented: bool = True
    errors: tuple[int, ...] = ()
    scores: bool = False
