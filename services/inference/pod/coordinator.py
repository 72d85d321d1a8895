"""Changes of all workers of a pod together, under the pod's lock.

The worker that gets a call coordinates the change. A change has three steps:

1. All workers prepare.
2. The coordinator writes the pod's state file. This is the pod's commit.
3. The coordinator lists the workers again, and all activate.

A worker that starts during a change registers first and reads the state file after that. So the
coordinator lists it, or it has read the new state. When a coordinator dies, the next holder of the
lock finishes its work from the state file. See docs/promotion.md, "Pods and their workers".
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from fraudops.errors import BundleError, FraudopsError, SignatureRefusedError, StoreDownError
from fraudops.files import try_lock
from fraudops.promotion.pod_rules import (
    ANY,
    PodState,
    awaited_target,
    check_prepare,
    may_turn_ready,
    offered_credentials,
    on_activate,
    on_failed_template,
)
from fraudops.promotion.serving_record import EMPTY, ServingRecord, ServingTarget
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.state import (
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.workers import (
    ACTIVATE_SECONDS,
    Workers,
    prepare_failure,
    seconds_until,
)

logger = logging.getLogger(__name__)
PREPARE_SECONDS = 60.0
LOCK_LOOK_SECONDS = 0.01


class PodCoordinator:
    """The same object in every worker; the holder of the pod's lock acts.

    `template` is what a rollout made the pod for, or None. `read_record` blocks, and returns None
    if there is no record. `count_refusal` gets "signature" or "bundle" when the pod refuses one.
    """

    def __init__(
        self,
        state: State,
        workers: Workers,
        cache: BundleCache,
        read_record: Callable[[], ServingRecord | None],
        template: ServingTarget | None,
        count_refusal: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.state, self.workers, self.template = state, workers, template
        self._cache, self._read_record, self._count_refusal = cache, read_record, count_refusal

    async def record(self) -> ServingRecord:
        """Read the serving record; EMPTY if there is none. Raises as `stored_record` does."""
        return await self.stored_record() or EMPTY

    async def stored_record(self) -> ServingRecord | None:
        """Read the serving record; None if there is none.

        Raises RecordUnreadableError, StoreDownError.
        """
        try:
            return await asyncio.to_thread(self._read_record)
        except OSError as error:
            raise StoreDownError(f"the serving record cannot be read ({error.strerror})") from error

    async def prepare(self, target: ServingTarget, seconds: float) -> None:
        """Make every worker open the target next to what it serves, for `seconds`.

        Raises RefusedError, StoreDownError; then nothing has changed.
        """
        deadline = time.monotonic() + seconds
        async with self._locked(seconds):
            check_prepare(read_pod_state(self.state), target)
            await self._prepare(target, "cache", seconds, deadline)

    async def activate(
        self, expected: ServingTarget = ANY, seconds: float = PREPARE_SECONDS
    ) -> None:
        """Read the record and serve what it names, in every worker.

        Raises RefusedError when the record does not name what the caller expects or the pod cannot
        serve it, and StoreDownError when the same call may succeed later.
        """
        async with self._locked(seconds):
            record, now = await self.record(), read_pod_state(self.state)
            await self._follow(now, on_activate(now, record, self.template, expected), seconds)

    async def follow_without_template(self) -> None:
        """Serve the record's current entry, because the template's target cannot be loaded.

        Raises what `activate` raises.
        """
        async with self._locked(PREPARE_SECONDS):
            record, now = await self.record(), read_pod_state(self.state)
            if target := on_failed_template(now, record):
                await self._follow(now, target, PREPARE_SECONDS)

    async def finish(self) -> None:
        """Make every worker serve what the state file names.

        The coordinator that wrote the file may have died, or the cache has lost the bundle. Raises
        RefusedError, StoreDownError.
        """
        async with self._locked(ACTIVATE_SECONDS):
            now = read_pod_state(self.state)
            if now.target is None:
                return
            try:
                await self.workers.activate(now)
            except StoreDownError:
                await self._ensure(now.target, PREPARE_SECONDS)
                await self.workers.activate(now)

    async def last_look(self, now: PodState, view: RecordView) -> RecordView:
        """Return the view after one more read of the record, the last before the pod turns ready.

        The view keeps what this read has seen. Otherwise a pod whose next reads fail would forget
        that it is behind, and turn ready.
        """
        try:
            record = await self.record()
        except FraudopsError:
            return msgspec.structs.replace(view, ready=may_turn_ready(now, None))
        seen = awaited_target(now, record, self.template)
        return msgspec.structs.replace(view, target=seen, ready=may_turn_ready(now, record))

    async def _follow(self, now: PodState, target: ServingTarget, seconds: float) -> None:
        if now.is_behind(target.epoch):
            # A worker that has prepared the model knows where its bundle came from.
            source = (await self.workers.prepared()).get(target.digest, "cache")
            deadline = time.monotonic() + seconds
            source = await self._prepare(target, source, PREPARE_SECONDS, deadline)
            now = now.serving(target, source)
            write(pod_state_path(self.state), now)
        await self.workers.activate(now)
        await self._turn_ready(now)
        await self._prune(now)

    async def _prepare(
        self, target: ServingTarget, source: str, keep_seconds: float, deadline: float
    ) -> str:
        """Prepare the target in every worker; return where its bundle came from."""
        if self._cache.is_verified(target):
            answers = await self.workers.prepare(target, source, keep_seconds, deadline)
            failure = prepare_failure(target.version, answers)
            if failure is None:
                return source
            # A second verification does not help a worker that hangs.
            if any(answer.reply is None for answer in answers):
                raise failure
            logger.warning(
                "a bundle that was verified before is verified again",
                extra={"digest": target.digest, "reason": str(failure)},
            )
        source = await self._ensure(target, seconds_until(deadline))
        answers = await self.workers.prepare(target, source, keep_seconds, deadline)
        if failure := prepare_failure(target.version, answers):
            raise failure
        return source

    async def _ensure(self, target: ServingTarget, seconds: float) -> str:
        """Verify the target's bundle by the record's credentials; return where it came from.

        Raises what `BundleCache.ensure` raises. Without the record the kept credentials decide, and
        a refusal by them is a StoreDownError.
        """
        try:
            offered, unread = offered_credentials(await self.record(), target), ""
        except FraudopsError as error:
            offered, unread = None, str(error)
        try:
            return await self._cache.ensure(target, seconds, credentials=offered)
        except SignatureRefusedError as error:
            if unread:
                # The record may have the credentials, so the promoter must try again.
                raise StoreDownError(f"{unread}; without the record, {error}") from error
            self._count_refusal("signature")
            raise
        except BundleError:
            self._count_refusal("bundle")
            raise

    async def _turn_ready(self, now: PodState) -> None:
        """Turn ready without waiting for the next poll, for example after the first promotion."""
        if read_record_view(self.state).ready or not await self.workers.is_complete(now):
            return
        view = await self.last_look(now, RecordView(target=now.target))
        write(record_view_path(self.state), view)
        if view.ready:
            logger.info("the pod is ready", extra={"epoch": now.epoch, "version": now.version})

    async def _prune(self, now: PodState) -> None:
        keep = {now.digest or "", *now.served, *await self.workers.prepared()}
        await asyncio.to_thread(self._cache.prune, keep)

    @asynccontextmanager
    async def _locked(self, seconds: float) -> AsyncIterator[None]:
        """Hold the pod's lock, which the kernel frees when its holder dies.

        Raises StoreDownError, also for a file that cannot be written or opened under the lock: the
        disk may be full now and not later.
        """
        end = time.monotonic() + seconds
        try:
            descriptor = os.open(
                self.state.run / "pod.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                while not try_lock(descriptor):
                    if time.monotonic() > end:
                        raise StoreDownError("another call to this pod is not done yet; try again")
                    await asyncio.sleep(LOCK_LOOK_SECONDS)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreDownError(
                f"the pod cannot use its state folder ({error.strerror or type(error).__name__}): "
                "check the disk"
            ) from error
