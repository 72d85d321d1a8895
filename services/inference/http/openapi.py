"""The OpenAPI document: the table of routes, with the schema of the model that is served."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from services.inference.http.error_answers import CONTENT_TYPE, InferenceError, Problem, speaks_v2
from services.inference.http.handlers.predictions import Transaction
from services.inference.http.messages import Route
from services.inference.model import LoadedModel

REFERENCE = "#/components/schemas/{name}"
SECURITY = {
    "admin": {
        "type": "http",
        "scheme": "bearer",
        "description": "The admin token: FRAUDOPS_ADMIN_TOKEN.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a JSON Web Token of the configured issuer.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
# What every call may answer: a malformed, slow or too large head, a defect, a busy service.
_ALWAYS = {400, 405, 408, 414, 431, 500, 503}
Schema = dict[str, Any]


class Document:
    """The document as JSON, made once for the model that is served.

    It takes milliseconds, and any client may ask for it.
    """

    def __init__(self, routes: Iterable[Route], root_path: str, authenticated: bool) -> None:
        self._routes, self._root_path, self._authenticated = routes, root_path, authenticated
        # The model itself would stay in memory after a promotion.
        self._version: tuple[str, str] | None = None
        self._encoded = b""

    def __call__(self, model: LoadedModel | None) -> bytes:
        version = (model.digest, model.version) if model else None
        if not self._encoded or version != self._version:
            described = describe(
                self._routes, model, self._root_path, authenticated=self._authenticated
            )
            self._encoded, self._version = msgspec.json.encode(described), version
        return self._encoded


def describe(
    routes: Iterable[Route],
    model: LoadedModel | None,
    root_path: str = "",
    *,
    authenticated: bool = False,
) -> Schema:
    """Return the document for the served model.

    `root_path` is the prefix that a proxy strips. `authenticated` means that a client must send a
    credential.
    """
    documented = [route for route in routes if route.documented]
    paths: dict[str, Schema] = {}
    for route in documented:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, authenticated)
    return {
        "openapi": "3.1.0",
        "info": {"title": "fraudops", "version": "1"},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": _schemas(documented, model), "securitySchemes": SECURITY},
    }


def statuses(route: Route) -> frozenset[int]:
    """Return every status that the route can answer."""
    found = {route.status, *_ALWAYS, *route.errors}
    if route.port != "both":
        # The other port knows no such call.
        found.add(404)
    if route.scope:
        found |= {401, 403} if route.scope == "admin" else {401, 403, 429}
    if route.body:
        found |= {413, 415}
    if route.body and not (route.body.stream or speaks_v2(route.path)):
        found.add(422)
    return frozenset(found)


def _operation(route: Route, authenticated: bool) -> Schema:
    responses = {str(route.status): {"description": "Done", **_content(route.response)}}
    shape = (InferenceError,) if speaks_v2(route.path) else (Problem, CONTENT_TYPE)
    problem = {"description": "Refused, with the reason", **_content(*shape)}
    responses |= {str(status): problem for status in sorted(statuses(route) - {route.status})}
    operation: Schema = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", route.summary.lower()),
        "tags": [route.tag],
        "responses": responses,
        "security": _security(route, authenticated),
    }
    if parameters := re.findall(r"\{(\w+)\}", route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if route.body and route.request:
        operation["requestBody"] = {"required": route.body.required, **_content(route.request)}
    return operation


def _security(route: Route, authenticated: bool) -> list[Schema]:
    if route.scope == "admin":
        return [{"admin": []}]
    if route.scope is None:
        return []
    credentials: list[Schema] = [{"key": []}, {"token": []}]
    return credentials if authenticated else [*credentials, {}]


def _content(kind: Any, media: str = "application/json") -> Schema:
    """Describe a body: a struct, or a media type of bytes."""
    if kind is None:
        return {}
    if isinstance(kind, str):
        return {"content": {kind: {"schema": {}}}}
    return {"content": {media: {"schema": {"$ref": REFERENCE.format(name=kind.__name__)}}}}


def _schemas(routes: Iterable[Route], model: LoadedModel | None) -> Mapping[str, Any]:
    named = [kind for route in routes for kind in (route.request, route.response)]
    kinds = [
        Problem,
        InferenceError,
        *dict.fromkeys(kind for kind in named if isinstance(kind, type)),
    ]
    if model:
        # It has the name of the struct in the table, whose place it takes.
        kinds = [kind for kind in kinds if kind is not Transaction]
    schemas = _components(kinds)
    if model:
        served = _components([model.reader.kind])
        served[Transaction.__name__] |= {"description": _about(model)}
        return schemas | served
    schemas[Transaction.__name__] |= {"additionalProperties": {"type": "number"}}
    return schemas


def _components(kinds: Iterable[Any]) -> Schema:
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    # Python's ends of a text in the words of JSON Schema's regular expressions.
    encoded = msgspec.json.encode(schemas).replace(rb"\\A", b"^").replace(rb"\\Z", b"$")
    decoded: Schema = msgspec.json.decode(encoded)
    return decoded


def _about(model: LoadedModel) -> str:
    return (
        f"The features of {model.name} version {model.version} (schema {model.schema.name}), "
        "all of them, and nothing else but the two optional ids."
    )
