"""One request between its arrival and its answer."""

from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from services.inference.http.bodies import Arrival, Receive
from services.inference.http.messages import Route
from services.inference.http.problems import Headers
from services.inference.http.request_headers import request_id, timeout_seconds, traceparent
from services.inference.http.route_table import Port
from services.inference.model import Serving

Scope = MutableMapping[str, Any]
OTHER = "other"


class Exchange:
    """The state of one request on its way through the dispatcher."""

    def __init__(self, scope: Scope, receive: Receive, port: Port) -> None:
        self.arrival: Arrival = scope["state"]["arrival"]
        self.started = perf_counter()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.receive, self.port = receive, port
        self.request_id = request_id(self.headers.get(b"x-request-id"))
        self.traceparent = traceparent(self.headers.get(b"traceparent"))
        self.route: Route | None = None
        self.label = OTHER
        self.client: str | None = None
        self.serving: Serving | None = None
        self.more_headers: Headers = []

    @property
    def deadline(self) -> float | None:
        """The client's deadline for a prediction, as a time of perf_counter."""
        if self.route is None or not self.route.scores:
            return None
        seconds = timeout_seconds(self.headers.get(b"x-request-timeout-ms"))
        return self.arrival.head + seconds if seconds else None

    @property
    def announced(self) -> int | None:
        """The length of the body that the client announced."""
        length = self.headers.get(b"content-length", b"").strip()
        return int(length) if length.isdigit() else None

    @property
    def seconds(self) -> float:
        """The time since the last byte of the body, or since the start if it is not read."""
        return perf_counter() - (self.arrival.received or self.started)
