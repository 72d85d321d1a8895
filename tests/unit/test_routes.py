"""The table of routes, and the search in it."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.inference.http import openapi
from services.inference.http.bodies import Arrival
from services.inference.http.exchange import Exchange
from services.inference.http.openapi import describe, statuses
from services.inference.http.route_table import RouteTable
from services.inference.http.routes import ROUTES

SEGMENTS = {"digest": "0" * 64, "name": "bundle.json", "model": "fraud", "version": "7"}


def example(path: str) -> str:
    for name, value in SEGMENTS.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_path_of_the_table_matches_itself_and_no_other(route: Any) -> None:
    table = RouteTable(ROUTES, "both")
    for path in (example(route.path), example(route.path) + "/"):
        found = table.find(path)
        assert found is not None
        assert found.methods[route.method] is route
        assert {other.path for other in found.methods.values()} == {route.path}
        assert example(route.path.format_map(found.parameters)) == example(route.path)
    assert table.find(f"{example(route.path)}//") is None
    if "{" not in route.path:
        other = table.find(f"{route.path}/x")
        assert other is None or route not in other.methods.values()
        assert table.find(f"{route.path}x") is None
    assert table.find("/" + example(route.path)) is None
    assert table.find(example(route.path).upper()) is None


@pytest.mark.parametrize("name", [".", "..", "a/b", "../x", "/x", "x" * 201])
def test_a_parameter_is_one_segment_and_leaves_no_folder(name: str) -> None:
    table = RouteTable(ROUTES, "both")
    assert table.find(f"/bundles/{'0' * 64}/{name}") is None
    assert table.find(f"/spool/aside/{name}") is None
    assert table.find("/bundles//x") is None


def test_a_name_with_dots_is_a_parameter() -> None:
    found = RouteTable(ROUTES, "both").find("/spool/...seg")
    assert found is not None
    assert found.parameters == {"name": "...seg"}


def test_each_port_knows_only_its_own_routes() -> None:
    public, admin = RouteTable(ROUTES, "public"), RouteTable(ROUTES, "admin")
    for route in ROUTES:
        known = (public.find(example(route.path)), admin.find(example(route.path)))
        assert [found is not None for found in known] == [
            route.port in ("public", "both"),
            route.port in ("admin", "both"),
        ]
        assert route.port == "admin" or route.scope != "admin"


def test_a_label_is_a_fixed_text() -> None:
    assert all("{" not in route.label for route in ROUTES)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_allowed_methods_include_those_that_every_path_has() -> None:
    table = RouteTable(ROUTES, "both")
    allowed = {
        path: found.allowed
        for path in ("/health", "/predict")
        if (found := table.find(path)) is not None
    }
    assert allowed == {"/health": "GET, HEAD, OPTIONS", "/predict": "POST, OPTIONS"}
    assert table.methods == ["GET", "HEAD", "OPTIONS", "POST", "PUT"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_only_what_scores_has_a_deadline(route: Any) -> None:
    """A header that a proxy adds must not make a pod unready or refuse a promotion."""
    scope = {"state": {"arrival": Arrival(100.0)}, "method": route.method, "path": route.path}
    headers = [(b"x-request-timeout-ms", b"500")]
    exchange = Exchange(scope | {"headers": headers}, no_body, "both")
    exchange.route = route
    assert exchange.deadline == (100.5 if route.scope == "predict" else None)


async def no_body() -> Any:
    raise AssertionError("nothing is read")


def test_the_document_is_made_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes milliseconds, and needs no credential."""
    made = []

    def counted(_routes: object, model: object, _root_path: str, **_options: bool) -> object:
        made.append(model)
        return {"number": len(made)}

    monkeypatch.setattr(openapi, "describe", counted)
    document = openapi.Document(ROUTES, "", authenticated=False)
    models: list[Any] = [
        SimpleNamespace(digest=digest, version=version)
        for digest, version in (("a", "1"), ("a", "2"), ("b", "2"))
    ]
    for number, model in enumerate([None, *models, None], 1):
        for _ in range(3):
            assert document(model) == b'{"number":%d}' % number
    assert made == [None, *models, None]


def test_the_document_has_every_status_and_credential_of_each_route() -> None:
    document = describe(ROUTES, None, "/fraud", authenticated=True)
    assert document["servers"] == [{"url": "/fraud"}]
    for route in ROUTES:
        if not route.documented:
            continue
        operation = document["paths"][route.path][route.method.lower()]
        assert {int(status) for status in operation["responses"]} == statuses(route)
        named = {name for option in operation["security"] for name in option}
        assert named == (
            {"admin"} if route.scope == "admin" else {"key", "token"} if route.scope else set()
        )
        assert bool(route.body and route.request) == ("requestBody" in operation)
    optional = describe(ROUTES, None)["paths"]["/predict"]["post"]["security"]
    assert {} in optional
