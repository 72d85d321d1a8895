"""The promotion lock as a Lease.

The holder renews it. Another promoter takes it over if it was not renewed for its whole duration.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.errors import StoreDownError
from fraudops.progress import Say
from fraudops.promotion.ports import StaleRecordError, UnknownWriteError

DURATION_SECONDS = 15
RENEW_SECONDS = 5.0
RELEASE_TRIES = 5


class LeaseLock:
    """`<release>-promotion`.

    Whether a holder is silent is judged by this process's own clock, never by comparing clocks.
    """

    def __init__(
        self,
        cluster: Cluster,
        release: str,
        identity: str,
        say: Say,
        wait_seconds: float = 300.0,
    ) -> None:
        self.cluster, self.path = (
            cluster,
            cluster.path("coordination.k8s.io/v1", "leases", f"{release}-promotion"),
        )
        self.identity, self.say, self.wait_seconds = identity, say, wait_seconds
        self._renewed = float("-inf")

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        await self._acquire()
        self.say("lock acquired")
        renewal = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await self._release()

    async def held(self) -> bool:
        return time.monotonic() - self._renewed < DURATION_SECONDS

    async def _acquire(self) -> None:
        end, seen, since, told = time.monotonic() + self.wait_seconds, None, time.monotonic(), False
        while True:
            lease = await self.cluster.call("GET", self.path)
            spec = lease.get("spec") or {}
            state = (spec.get("holderIdentity"), spec.get("renewTime"))
            if state != seen:
                seen, since = state, time.monotonic()
            free = spec.get("holderIdentity") in (None, "", self.identity)
            silent = time.monotonic() - since > float(
                spec.get("leaseDurationSeconds") or DURATION_SECONDS
            )
            if (free or silent) and await self._write(lease, self.identity):
                return
            if not told and not free:
                told = True
                self.say(f"waiting for the lock: {spec.get('holderIdentity')} has it")
            if time.monotonic() > end:
                raise StoreDownError(
                    f"another promotion has the lock ({spec.get('holderIdentity')}); "
                    "try again when it has ended"
                )
            await asyncio.sleep(1.0)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                lease = await self.cluster.call("GET", self.path)
                if (lease.get("spec") or {}).get("holderIdentity") != self.identity:
                    self._renewed = float("-inf")
                    return
                await self._write(lease, self.identity)
            except (StoreDownError, UnknownWriteError):
                continue

    async def _release(self) -> None:
        """A renewal that was on its way may still arrive and make the first try stale."""
        with contextlib.suppress(StoreDownError, UnknownWriteError):
            for _ in range(RELEASE_TRIES):
                lease = await self.cluster.call("GET", self.path)
                if (lease.get("spec") or {}).get(
                    "holderIdentity"
                ) != self.identity or await self._write(lease, ""):
                    return

    async def _write(self, lease: dict[str, Any], holder: str) -> bool:
        """False when somebody else was faster."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": now,
        }
        if (lease.get("spec") or {}).get("holderIdentity") != holder:
            spec["acquireTime"] = now
        asked = time.monotonic()
        try:
            await self.cluster.call(
                "PATCH",
                self.path,
                {
                    "metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]},
                    "spec": spec,
                },
            )
        except StaleRecordError:
            return False
        self._renewed = asked if holder else float("-inf")
        return True
