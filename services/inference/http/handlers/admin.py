"""Admin calls of a promoter, and of the pod's preStop hook."""

from typing import Annotated, Literal

import msgspec

from fraudops.promotion.serving_record import ServingTarget
from services.inference.http.context import ServiceContext
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.pod.coordinator import PREPARE_SECONDS
from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.transactions import Reader


class ReloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a promoter asks of the pod.

    `prepare` opens a version next to the served one. `commit` reads the serving record now, and
    serves what it names. `drop` closes what was prepared. Without a phase the pod commits.
    """

    phase: Literal["prepare", "commit", "drop"] | None = None
    version: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")] | None = (
        None
    )
    digest: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")] | None = None
    epoch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = PREPARE_SECONDS

    @property
    def target(self) -> ServingTarget:
        """What the request names. A missing field is zero or empty, as in `pod_rules.ANY`."""
        return ServingTarget(self.epoch or 0, self.version or "", self.digest or "")


_reader = Reader(ReloadRequest)


async def reload(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Answer once every worker of the pod has done it.

    Raises RefusedError, which is final, and StoreDownError, after which the same call may
    succeed.
    """
    asked = _reader.read(request.body or b"{}")
    if asked.phase == "prepare":
        _require(asked, "version", "digest")
        await context.pod.prepare(asked.target, asked.deadline_seconds)
    elif asked.phase == "drop":
        _require(asked, "digest")
        await context.pod.workers.drop(asked.target)
    else:
        await context.pod.activate(asked.target, asked.deadline_seconds)
    return HttpResponse(msgspec.json.encode(await context.status.reloaded()))


async def drain(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    """Make every worker ask its clients to leave. The pod is never ready again."""
    await context.pod.workers.drain()
    return HttpResponse(msgspec.json.encode(await context.status.reloaded()))


def _require(request: ReloadRequest, *fields: str) -> None:
    for field in fields:
        if getattr(request, field) is None:
            raise InvalidBodyError(
                [
                    FieldFault(
                        field=field, reason=f"is missing: {request.phase} needs it", code="missing"
                    )
                ]
            )
