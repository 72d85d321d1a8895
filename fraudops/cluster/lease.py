"""The promotion lock in the Lease `<release>-promotion`.

The holder renews the Lease. Another promoter takes it over after it was not renewed for the whole
duration that it names.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.errors import FraudopsError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.ports import LockBusyError, StaleRecordError, UnknownWriteError

RELEASE_TRIES = 5


@dataclass(frozen=True)
class LeaseTimes:
    """Times in seconds.

    `duration`: how long the holder may be silent. The API takes whole seconds.
    `renew`: between two renewals, and the longest time that one renewal may take.
    `pause`: before the next look at a Lease that is not free, and after a failure.
    """

    duration: int = 15
    renew: float = 5.0
    pause: float = 1.0


class LeaseLock:
    """The port Lock.

    The times in the Lease come from the clock of the holder, which may be wrong. They are never
    compared with this process's clock. A holder is silent if the Lease has not changed for its
    duration on this process's monotonic clock. A new promoter therefore waits at least that long.
    """

    def __init__(
        self,
        cluster: Cluster,
        release: str,
        identity: str,
        say: Say,
        wait_seconds: float = 300.0,
        times: LeaseTimes = LeaseTimes(),
    ) -> None:
        self.cluster, self.identity, self.say = cluster, identity, say
        self.name = f"{release}-promotion"
        self.path = cluster.path("coordination.k8s.io/v1", "leases", self.name)
        self.wait_seconds, self.times = wait_seconds, times
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
        """Tell whether no other promoter can have the lock yet.

        It turns False when the last renewal is older than the duration, even if the Lease still
        names this process: another one may take it over at any moment from then on.
        """
        return time.monotonic() - self._renewed < self.times.duration

    async def _acquire(self) -> None:
        """Wait for the Lease. Raises LockBusyError after `wait_seconds`.

        An API that does not answer is asked again for the Lease's duration. Raises StoreDownError
        without a wait if there is no Lease.
        """
        start = answered = time.monotonic()
        watch, told = _Watch(), False
        while True:
            try:
                holder = await self._take(watch)
            except NotFoundError as error:
                raise StoreDownError(
                    f"the promotion lock, the Lease {self.name}, does not exist: the setup Job "
                    "makes it; delete that Job, and sync or upgrade again"
                ) from error
            except (StoreDownError, UnknownWriteError):
                # After an unknown write the next look tells whether this process has the Lease.
                if time.monotonic() - answered > min(self.times.duration, self.wait_seconds):
                    raise
            else:
                if holder is None:
                    return
                answered = time.monotonic()
                if not told:
                    told = True
                    self.say(f"waiting for the lock: {holder} has it")
                if answered - start > self.wait_seconds:
                    raise LockBusyError(holder)
            await asyncio.sleep(self.times.pause)

    async def _take(self, watch: "_Watch") -> str | None:
        """Take the Lease if it is free or its holder is silent. Otherwise return its holder."""
        lease = await self.cluster.call("GET", self.path)
        holder = _holder(lease)
        silent = watch.is_silent(lease, self.times)
        if holder not in ("", self.identity) and not silent:
            return holder
        return None if await self._write(lease, self.identity) else "another promoter"

    async def _renew(self) -> None:
        """Renew until the task is cancelled, or until another promoter has the Lease."""
        pause = self.times.renew
        while True:
            await asyncio.sleep(pause)
            pause = self.times.pause
            with contextlib.suppress(FraudopsError, TimeoutError):
                # One answer that never comes must not use up the whole duration.
                async with asyncio.timeout(self.times.renew):
                    lease = await self.cluster.call("GET", self.path)
                    if _holder(lease) != self.identity:
                        self._renewed = float("-inf")
                        return
                    if await self._write(lease, self.identity):
                        pause = self.times.renew

    async def _release(self) -> None:
        """Release the Lease, or leave it to lapse if the API does not answer.

        A renewal that was on its way may still arrive, and makes the first try stale.
        """
        self._renewed = float("-inf")
        # After its duration the Lease is as good as released.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.duration):
                for _ in range(RELEASE_TRIES):
                    with contextlib.suppress(FraudopsError):
                        lease = await self.cluster.call("GET", self.path)
                        if _holder(lease) != self.identity or await self._write(lease, ""):
                            return
                    await asyncio.sleep(self.times.pause)

    async def _write(self, lease: dict[str, Any], holder: str) -> bool:
        """Write the holder if the Lease is still as it was read. Return False if it is not."""
        # The API refuses a time without six digits of a second.
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": self.times.duration,
            "renewTime": now,
        }
        if _holder(lease) != holder:
            spec["acquireTime"] = now
        metadata = {"resourceVersion": lease["metadata"]["resourceVersion"]}
        # Others may count from the moment at which the API applies the write. It is later than
        # this moment, so this process gives up first.
        asked = time.monotonic()
        try:
            await self.cluster.call("PATCH", self.path, {"metadata": metadata, "spec": spec})
        except StaleRecordError:
            return False
        self._renewed = asked if holder else float("-inf")
        return True


class _Watch:
    """How long a Lease has not changed, by the monotonic clock of this process."""

    def __init__(self) -> None:
        self._seen: tuple[Any, Any] | None = None
        self._since = time.monotonic()

    def is_silent(self, lease: dict[str, Any], times: LeaseTimes) -> bool:
        spec = lease.get("spec") or {}
        state = (spec.get("holderIdentity"), spec.get("renewTime"))
        if state != self._seen:
            self._seen, self._since = state, time.monotonic()
        return time.monotonic() - self._since > (spec.get("leaseDurationSeconds") or times.duration)


def _holder(lease: dict[str, Any]) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""
