"""The calls without a body, as FastAPI has them, and what FastAPI itself refuses."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from fraudops.errors import FraudopsError
from fraudops.ids import uuid7
from services.inference.http.metrics_page import CONTENT_TYPE, PodCollector, render
from services.inference.http.middleware import client_id
from services.inference.http.openapi import REFERENCE
from services.inference.http.problems import CONTENT_TYPE as PROBLEM
from services.inference.http.problems import NoSuchEndpointError, WrongMethodError, problem_response
from services.inference.pod.status import Status

PAGES = ("/health", "/ready", "/model_info", "/metrics", "/docs", "/redoc", "/openapi.json")


def add_pages(
    app: FastAPI, status: Status, metrics_folder: Path, pod_collector: PodCollector
) -> None:
    @app.get("/health", tags=["state"], summary="The process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/ready",
        tags=["state"],
        summary="Every worker has the promoted model open, or none has been promoted yet",
        response_class=Response,
        responses=_documented("Ready", 503),
    )
    async def ready() -> Response:
        return _json(await status.ready())

    @app.get(
        "/model_info",
        tags=["state"],
        summary="What is served, and what is wrong with it",
        response_class=Response,
        responses=_documented("ModelInfo"),
    )
    async def model_info() -> Response:
        return _json(await status.model_info())

    @app.get(
        "/metrics",
        tags=["state"],
        summary="Prometheus metrics of all workers",
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(
            await asyncio.to_thread(render, metrics_folder, pod_collector, await status.is_ready()),
            media_type=CONTENT_TYPE,
        )

    app.add_exception_handler(FraudopsError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _crash)


def _json(content: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _documented(answer: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The schemas themselves are openapi.describe's."""
    shapes: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {"schema": {"$ref": REFERENCE.format(name=answer)}}}}
    }
    problem_shape = {
        "description": "Refused: see detail",
        "content": {PROBLEM: {"schema": {"$ref": REFERENCE.format(name="Problem")}}},
    }
    return shapes | dict.fromkeys(errors, problem_shape)


async def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        allowed = (error.headers or {}).get("Allow", "another method")
        error = NoSuchEndpointError() if error.status_code == 404 else WrongMethodError(allowed)
    return _respond(error)


async def _crash(request: Request, error: Exception) -> Response:
    """Outside of the edge: the request's id is put back here.

    The server logs the error once we have answered.
    """
    response = _respond(error)
    response.headers["x-request-id"] = (
        client_id(request.headers.get("x-request-id", "").encode("latin-1")) or uuid7()
    )
    return response


def _respond(error: Exception) -> Response:
    code, headers, body = problem_response(error)
    return Response(body, code, {name.decode(): value.decode() for name, value in headers})
