"""What pods give each other on the admin port: bundles, and the spool of one that leaves."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response

from fraudops.model.manifest import DIGEST, FILE_NAME
from fraudops.signing.kept import SUFFIX, kept_path
from fraudops.spool.segments import ASIDE, NEWER
from services.inference.audit.takeover import HandoverReceiver
from services.inference.http.problems import NoSuchBundleError


def add_peer_routes(app: FastAPI, bundles: Path, receiver: HandoverReceiver) -> None:
    @app.get(
        "/bundles/{digest}/{name}",
        tags=["admin"],
        summary="A file of a bundle, for other pods",
        response_class=Response,
    )
    async def bundle_file(digest: str, name: str) -> Response:
        path = bundles / digest / name
        if not DIGEST.fullmatch(digest) or not FILE_NAME.fullmatch(name) or not path.is_file():
            raise NoSuchBundleError
        return FileResponse(path, media_type="application/octet-stream")

    @app.get(
        f"/bundles/{{digest}}{SUFFIX}",
        tags=["admin"],
        summary="The signed statements about a bundle, for other pods",
        response_class=Response,
    )
    async def credentials(digest: str) -> Response:
        path = kept_path(bundles, digest)
        if not DIGEST.fullmatch(digest) or not path.is_file():
            raise NoSuchBundleError
        return FileResponse(path, media_type="application/json")

    @app.put(
        "/spool/aside/{name}",
        tags=["admin"],
        summary="Take over what a leaving pod had set aside",
        status_code=204,
        response_class=Response,
    )
    async def aside(name: str, request: Request) -> None:
        await receiver.take_dead_letters(ASIDE, name, _announced(request), request.stream())

    @app.put(
        "/spool/newer/{name}",
        tags=["admin"],
        summary="Take over records that a leaving pod keeps for a newer release",
        status_code=204,
        response_class=Response,
    )
    async def newer(name: str, request: Request) -> None:
        await receiver.take_dead_letters(NEWER, name, _announced(request), request.stream())

    @app.put(
        "/spool/{name}",
        tags=["admin"],
        summary="Take over a segment of a leaving pod's audit spool",
        status_code=204,
        response_class=Response,
    )
    async def segment(name: str, request: Request) -> None:
        await receiver.take(name, _announced(request), request.stream())


def _announced(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() else None
