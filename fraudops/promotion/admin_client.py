"""Client for the admin calls of one pod, and the list of pods on one machine."""

import asyncio
import functools
import ssl
from collections.abc import Sequence
from typing import Any

import httpx

from fraudops.promotion.ports import PodRef, PodRefusedError, PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget
from fraudops.urls import split_url, without_credentials

ASK_SECONDS = 5.0
GRACE_SECONDS = 30.0
# The pod, or what it needs, does not answer now. A later try may succeed.
TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})


class PodAdminClient:
    """The admin calls of one pod.

    Each call raises PodUnresponsiveError if the pod does not answer in time, or answers that it
    cannot now (the statuses TEMPORARY). Every other refusal raises PodRefusedError. Both errors
    contain the pod's own reason.
    """

    def __init__(self, url: str, admin_token: str) -> None:
        self.url = url.rstrip("/")
        self._shown = without_credentials(split_url(self.url, "FRAUDOPS_URL"))
        self.headers = {"Authorization": f"Bearer {admin_token}"}

    async def ready(self) -> bool:
        return (await self._call("GET", "/ready", ASK_SECONDS)).status_code == 200

    async def epoch(self) -> int:
        """Return the highest epoch that one of the pod's workers has seen, 0 before any model."""
        answer = await self._call("GET", "/ready", ASK_SECONDS)
        # A pod that is not ready answers 503, and names its workers too.
        workers = _body(answer).get("workers")
        if workers is None:
            raise PodUnresponsiveError(_reason(answer))
        return max((worker.get("epoch") or 0 for worker in workers), default=0)

    async def prepare(self, target: ServingTarget, seconds: float) -> None:
        asked = {
            "phase": "prepare",
            "version": target.version,
            "digest": target.digest,
            "epoch": target.epoch,
        }
        await self._reload(asked | {"deadline_seconds": seconds + GRACE_SECONDS}, seconds)

    async def activate(self, epoch: int, seconds: float) -> int:
        body = await self._reload({"phase": "commit", "epoch": epoch}, seconds)
        if not isinstance(body.get("epoch"), int):
            raise PodUnresponsiveError(f"{self._shown}/reload answered without an epoch")
        return int(body["epoch"])

    async def drop(self, target: ServingTarget) -> None:
        await self._reload(
            {
                "phase": "drop",
                "version": target.version,
                "digest": target.digest,
                "epoch": target.epoch,
            },
            ASK_SECONDS,
        )

    async def _reload(self, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        answer = await self._call("POST", "/reload", seconds, asked)
        if answer.status_code == 200:
            return _body(answer)
        if answer.status_code in TEMPORARY:
            raise PodUnresponsiveError(_reason(answer))
        raise PodRefusedError(_reason(answer))

    async def _call(
        self, method: str, path: str, seconds: float, asked: dict[str, Any] | None = None
    ) -> httpx.Response:
        try:
            async with (
                # httpx counts its timeout again for each step. This one bounds the whole call.
                asyncio.timeout(seconds),
                httpx.AsyncClient(timeout=seconds, trust_env=False, verify=_trusted()) as client,
            ):
                return await client.request(
                    method, self.url + path, json=asked, headers=self.headers
                )
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise PodUnresponsiveError(
                f"{self._shown}{path} did not answer ({type(error).__name__})"
            ) from error


class LocalPods:
    """This machine's inference processes as the one pod of the Service."""

    def __init__(self, url: str, admin_token: str) -> None:
        self.client = PodAdminClient(url, admin_token)

    async def list(self) -> Sequence[PodRef]:
        try:
            return [PodRef("local", ready=await self.client.ready())]
        except PodUnresponsiveError:
            return []

    async def desired_replicas(self) -> int:
        return 1

    async def epoch(self, pod: PodRef) -> int:
        return await self.client.epoch()

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        await self.client.prepare(target, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        return await self.client.activate(epoch, seconds)

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        await self.client.drop(target)

    async def delete(self, pod: PodRef) -> None:
        raise PodRefusedError(
            "on one machine the supervisor restarts what hangs; see `fraudops status`"
        )


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the TLS context, which is created once.

    Creating it takes 20 ms of CPU time, and each pod gets three calls.
    """
    return httpx.create_ssl_context(trust_env=False)


def _body(answer: httpx.Response) -> dict[str, Any]:
    """Return the answer's JSON object. Raises PodUnresponsiveError if it is something else."""
    try:
        body = answer.json()
    except ValueError as error:
        raise PodUnresponsiveError(
            f"answered {answer.status_code} with something that is not JSON"
        ) from error
    if not isinstance(body, dict):
        raise PodUnresponsiveError(f"answered {answer.status_code} without a JSON object")
    return body


def _reason(answer: httpx.Response) -> str:
    """Return the reason that a refusal gives. A proxy between may answer without one."""
    try:
        body = _body(answer)
    except PodUnresponsiveError:
        body = {}
    return str(body.get("detail") or body.get("title") or f"answered {answer.status_code}")
