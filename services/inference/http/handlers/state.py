"""The state of the pod: health, readiness, the served model, metrics."""

import asyncio
from typing import Literal

import msgspec

from services.inference.http.context import ServiceContext
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.http.metrics_page import CONTENT_TYPE


class Health(msgspec.Struct):
    """The process lives."""

    status: Literal["ok"]


async def health(_context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(Health("ok")))


async def ready(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    """Raises NotReadyError with the reason."""
    return HttpResponse(msgspec.json.encode(await context.status.ready()))


async def model_info(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(await context.status.model_info()))


async def metrics(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    page = await asyncio.to_thread(context.metrics_page, await context.status.is_ready())
    return HttpResponse(page, media=CONTENT_TYPE.encode())
