"""Calls between pods on the admin port: bundles, and the spool of a pod that leaves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fraudops.model.manifest import DIGEST, FILE_NAME
from fraudops.signing.kept import kept_path
from fraudops.spool.segments import ASIDE, NEWER
from services.inference.http.context import ServiceContext
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.http.problems import NoSuchBundleError

PART_BYTES = 256 << 10


async def bundle_file(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Raises NoSuchBundleError."""
    digest, name = request.parameters["digest"], request.parameters["name"]
    if not DIGEST.fullmatch(digest) or not FILE_NAME.fullmatch(name):
        raise NoSuchBundleError
    return _file(context.bundles / digest / name, b"application/octet-stream")


async def bundle_credentials(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Raises NoSuchBundleError."""
    digest = request.parameters["digest"]
    if not DIGEST.fullmatch(digest):
        raise NoSuchBundleError
    return _file(kept_path(context.bundles, digest), b"application/json")


async def segment(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Raises as HandoverReceiver.take does."""
    await context.receiver.take(request.parameters["name"], _announced(request), _parts(request))
    return HttpResponse(status=204)


async def aside(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    return await _dead_letters(context, request, ASIDE)


async def newer(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    return await _dead_letters(context, request, NEWER)


async def _dead_letters(context: ServiceContext, request: HttpRequest, folder: str) -> HttpResponse:
    name = request.parameters["name"]
    await context.receiver.take_dead_letters(folder, name, _announced(request), _parts(request))
    return HttpResponse(status=204)


def _announced(request: HttpRequest) -> int | None:
    length = request.headers.get(b"content-length", b"").strip()
    return int(length) if length.isdigit() else None


def _parts(request: HttpRequest) -> AsyncIterator[bytes]:
    assert request.stream is not None, "the route's body is a stream"
    return request.stream


def _file(path: Path, media: bytes) -> HttpResponse:
    try:
        size = path.stat().st_size
    except OSError:
        raise NoSuchBundleError from None
    length = (b"content-length", b"%d" % size)
    return HttpResponse(media=media, headers=(length,), stream=_read(path, size))


async def _read(path: Path, size: int) -> AsyncIterator[bytes]:
    """Yield the first `size` bytes of a file, which has as many: a bundle never changes."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while size > 0 and (part := await asyncio.to_thread(file.read, min(size, PART_BYTES))):
            size -= len(part)
            yield part
