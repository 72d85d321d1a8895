"""A small Kubernetes API server in the test's own event loop, with faults on demand.

It is a real HTTP server, and the product's own client talks to it through a kubeconfig. It runs no
controller and no kubelet: a pod that terminates stays until the test deletes it without grace, as
its kubelet would. tests/cluster runs the same contract on a real API server.
"""

import asyncio
import contextlib
import copy
import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from tests.support.kube_discovery import discovery
from tests.support.kube_objects import (
    CLUSTER_SCOPED,
    RESOURCES,
    Object,
    Resource,
    StatusError,
    already_exists,
    checked,
    forbidden,
    grace_of,
    limited,
    matches,
    modified,
    not_found,
    patched,
)

PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[\w.-]+)/(?P<version>v\w+))"
    r"(?:/namespaces/(?P<namespace>[\w.-]+)(?=/))?"
    r"/(?P<plural>\w+)(?:/(?P<name>[\w.-]+))?(?:/(?P<subresource>status))?"
)
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
TOKENS = {"admin-token": "admin", "stranger-token": "stranger"}
REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}


@dataclass
class Fault:
    """What happens to the next `times` requests of that method whose path contains `path`.

    `then`: answer with that status, cut the connection, or never answer. None answers as usual.
    `applied`: the request takes effect first. `delay_seconds` passes before anything else.
    """

    method: str
    path: str
    then: int | Literal["cut", "silence"] | None = None
    applied: bool = False
    times: int = 1
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Place:
    """The part of the API that a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.resource.plural, self.namespace, self.name


class KubeApi:
    """The server. `requests` has the method and the path of each request that arrived."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        # If set, every answer is this page instead, as a proxy's may be.
        self.page = ""
        self.url = ""
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._version = 100
        self._closing = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["KubeApi"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self._closing.set()
            await runner.cleanup()

    def kubeconfig(self, file: Path, token: str = "admin-token") -> Path:
        """Write a kubeconfig for this server and return its file."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "user"}}],
            "current-context": "fake",
        }
        file.write_text(json.dumps(config))
        return file

    def now(self) -> datetime:
        """Return the time of the server's clock, in whole seconds."""
        return datetime.now(UTC).replace(microsecond=0)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        body = await request.read()
        fault = self._fault(request)
        if fault and fault.delay_seconds:
            await self._silence(fault.delay_seconds)
        if fault and fault.then is not None and not fault.applied:
            return await self._fail(request, fault.then)
        try:
            status, answer = self._apply(request, json.loads(body) if body else None)
        except StatusError as error:
            status, answer = error.code, error.body
        if fault and fault.then is not None:
            return await self._fail(request, fault.then)
        if self.page:
            return web.Response(text=self.page, content_type="text/html")
        return self._json(status, answer)

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == request.method and fault.path in request.path:
                fault.times -= 1
                return fault
        return None

    async def _fail(
        self, request: web.Request, then: int | Literal["cut", "silence"]
    ) -> web.StreamResponse:
        if isinstance(then, int):
            error = StatusError(then, REASONS.get(then, ""), "a fault of the test")
            return self._json(then, error.body)
        if then == "silence":
            await self._silence(None)
        # Nothing was written, so the client sees the connection end without an answer.
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _silence(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _json(self, status: int, answer: Object) -> web.Response:
        headers = {"Date": format_datetime(self.now(), usegmt=True)}
        return web.json_response(answer, status=status, headers=headers)

    def _apply(self, request: web.Request, body: Any) -> tuple[int, Object]:
        known = discovery(request.path) if request.method == "GET" else None
        if known is not None:
            return 200, known
        place = _place(request.path)
        if place.resource.plural == "selfsubjectreviews":
            # Every user may ask this, and nothing is stored.
            return 201, body | {"status": {"userInfo": {"username": self._user(request)}}}
        self._authorise(request, place)
        if place.resource.plural not in CLUSTER_SCOPED and request.method == "POST":
            namespace = ("namespaces", "", place.namespace)
            if namespace not in self._objects:
                raise not_found(RESOURCES["namespaces"], place.namespace)
        match request.method, bool(place.name):
            case "GET", False:
                return 200, self._list(place, request.query.get("labelSelector", ""))
            case "POST", False:
                return 201, self._create(place, body)
            case "GET", True:
                return 200, copy.deepcopy(self._found(place))
            case "PATCH", True:
                return 200, self._patch(place, request.content_type, body)
            case "DELETE", True:
                return 200, self._delete(place, body or {})
        raise StatusError(405, "MethodNotAllowed", "the server does not allow this method", {})

    def _user(self, request: web.Request) -> str:
        user = TOKENS.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def _authorise(self, request: web.Request, place: Place) -> None:
        user = self._user(request)
        if user != "admin":
            verb = VERBS[request.method] if place.name else "list"
            raise forbidden(place.resource, place.namespace, place.name, user, verb)

    def _found(self, place: Place) -> Object:
        if place.key not in self._objects:
            raise not_found(place.resource, place.name)
        return self._objects[place.key]

    def _list(self, place: Place, selector: str) -> Object:
        items = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
            for (plural, namespace, _), item in sorted(self._objects.items())
            if (plural, namespace) == (place.resource.plural, place.namespace)
            and matches(item, selector)
        ]
        return {
            "kind": f"{place.resource.kind}List",
            "apiVersion": place.resource.api_version,
            "metadata": {"resourceVersion": str(self._version)},
            "items": copy.deepcopy(items),
        }

    def _create(self, place: Place, body: Object) -> Object:
        name = str(body["metadata"]["name"])
        place = Place(place.resource, place.namespace, name, "")
        if place.key in self._objects:
            raise already_exists(place.resource, name)
        if body["metadata"].get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        metadata = body["metadata"] | {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _text(self.now()),
        }
        if place.namespace:
            metadata["namespace"] = place.namespace
        kind = {"kind": place.resource.kind, "apiVersion": place.resource.api_version}
        made = body | kind | {"metadata": metadata}
        if place.resource.plural in ("pods", "deployments"):
            made["status"] = {"phase": "Pending"} if place.resource.plural == "pods" else {}
        return self._store(place, checked(place.resource, made))

    def _patch(self, place: Place, content_type: str, change: Any) -> Object:
        old = self._found(place)
        new = patched(old, content_type, change)
        asked = new["metadata"].get("resourceVersion")
        if asked and asked != old["metadata"]["resourceVersion"]:
            raise modified(place.resource, place.name)
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        new = limited(place.resource, place.subresource, old, new)
        new = checked(place.resource, new)
        # A patch that changes nothing writes nothing and keeps the resourceVersion.
        return copy.deepcopy(old) if new == old else self._store(place, new)

    def _delete(self, place: Place, options: Object) -> Object:
        item = copy.deepcopy(self._found(place))
        seconds = grace_of(place.resource, item, options)
        metadata = item["metadata"]
        if "deletionTimestamp" in metadata and seconds >= metadata["deletionGracePeriodSeconds"]:
            return item
        metadata["deletionTimestamp"] = _text(self.now() + timedelta(seconds=seconds))
        metadata["deletionGracePeriodSeconds"] = seconds
        item = self._store(place, item)
        if not seconds:
            del self._objects[place.key]
        if place.resource.plural in ("pods", "nodes", "namespaces"):
            return item
        details = place.resource.details(place.name) | {"uid": metadata["uid"]}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }

    def _store(self, place: Place, item: Object) -> Object:
        self._version += 1
        item["metadata"] = item["metadata"] | {"resourceVersion": str(self._version)}
        self._objects[place.key] = item
        return copy.deepcopy(item)


def _place(path: str) -> Place:
    found = PATH.fullmatch(path)
    resource = RESOURCES.get(found["plural"]) if found else None
    if found is None or resource is None or resource.group != (found["group"] or ""):
        message = "the server could not find the requested resource"
        raise StatusError(404, "NotFound", message, {})
    return Place(
        resource, found["namespace"] or "", found["name"] or "", found["subresource"] or ""
    )


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
