"""The pod as one: whoever gets a call coordinates all workers, under the pod's lock.

All prepare; then the pod's state file is written, which is the pod's commit; then the workers
are listed again and all commit. A worker that is born meanwhile registers first and reads the
state file after, so it is either listed or has the new state. A coordinator that dies is
finished from the state file by the next who gets the lock. PROMOTION.md, "Pods and their
workers".
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.files import try_lock
from fraudops.promotion.serving_record import ServingRecord, ServingTarget, target_of
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.state import (
    PodState,
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.worker import check_step
from services.inference.pod.worker_channel import Ask, RunFolder, WorkerAnswer

logger = logging.getLogger(__name__)
STATE_SECONDS = 1.0
PREPARE_SECONDS = 60.0
ACTIVATE_SECONDS = 10.0


class PodCoordinator:
    """The same object in every worker; the lock decides who acts.

    `template` is what the pod was made for, if by a rollout.
    """

    def __init__(
        self,
        state: State,
        run: RunFolder,
        cache: BundleCache,
        read_record: Callable[[], ServingRecord],
        template: ServingTarget | None,
        workers: int,
    ) -> None:
        self.state, self.run, self.cache = state, run, cache
        self._read_record, self._template, self._workers = read_record, template, workers

    async def record(self) -> ServingRecord:
        """Raises RecordUnreadableError, StoreDownError."""
        try:
            return await asyncio.to_thread(self._read_record)
        except OSError as error:
            raise StoreDownError(f"the serving record cannot be read ({error.strerror})") from error

    def target(self, record: ServingRecord) -> ServingTarget | None:
        """Where the record sends this pod."""
        return target_of(record, self._template)

    async def workers(self) -> list[WorkerAnswer]:
        return await self.run.ask_all(Ask(op="state"), STATE_SECONDS)

    async def prepare(self, version: str, digest: str, epoch: int, seconds: float) -> None:
        """Every worker opens the version beside the one it serves, for `seconds`.

        Raises RefusedError, StoreDownError; then nothing has changed.
        """
        deadline = time.monotonic() + seconds
        async with self._locked(seconds):
            now = read_pod_state(self.state)
            if epoch:
                check_step(now.epoch, now.digest, epoch, digest)
            await self._open(
                Ask(op="prepare", version=version, digest=digest, epoch=epoch, seconds=seconds),
                deadline,
            )

    async def drop(self, digest: str) -> None:
        await self.run.ask_all(Ask(op="drop", digest=digest), STATE_SECONDS)

    async def drain(self) -> None:
        """Raises StoreDownError when a worker does not hear it."""
        answers = await self.run.ask_all(Ask(op="drain"), STATE_SECONDS)
        if faults := [answer.fault for answer in answers if answer.fault]:
            raise StoreDownError("; ".join(faults))

    async def activate(
        self,
        epoch: int = 0,
        version: str | None = None,
        digest: str | None = None,
        seconds: float = PREPARE_SECONDS,
    ) -> None:
        """Reads the record and serves what it names, in every worker.

        Raises RefusedError when the record is not (yet) at `epoch`, names another version than
        the one asked for, or names none; RefusedError or StoreDownError when the pod cannot.
        """
        async with self._locked(seconds):
            await self._go(
                _named(self.target(await self.record()), epoch, version, digest), seconds
            )

    async def fall_back(self) -> None:
        """What a rollout wants this pod to serve cannot be loaded: it serves what the record's
        other pods do. Raises like `follow`.
        """
        async with self._locked(PREPARE_SECONDS):
            await self._go(
                _named(target_of(await self.record(), None), 0, None, None), PREPARE_SECONDS
            )

    async def _go(self, target: ServingTarget, seconds: float) -> None:
        now = read_pod_state(self.state)
        check_step(now.epoch, now.digest, target.epoch, target.digest)
        if now.is_behind(target.epoch):
            now = now.next(
                target.epoch,
                target.version,
                target.digest,
                await self._fetch(target, time.monotonic() + seconds),
            )
            write(pod_state_path(self.state), now)
        await self._activate_all(now)
        await self._turn_ready(now)
        await self._prune(now)

    async def finish(self) -> None:
        """Brings every worker to what the state file says: what a coordinator that died has left,
        or a bundle that was lost from the cache.

        Raises RefusedError, StoreDownError.
        """
        async with self._locked(ACTIVATE_SECONDS):
            now = read_pod_state(self.state)
            try:
                await self._activate_all(now)
            except StoreDownError:
                await self.cache.ensure(now.version or "", now.digest or "", PREPARE_SECONDS)
                await self._activate_all(now)

    async def is_complete(self, now: PodState) -> bool:
        """Whether as many workers as there should be serve what the pod does."""
        replies = [worker.reply for worker in await self.workers()]
        return (
            now.digest is not None
            and len(replies) >= self._workers
            and all(reply and reply.epoch == now.epoch for reply in replies)
        )

    async def _turn_ready(self, now: PodState) -> None:
        """After the first promotion at once, not only at the next poll.

        The last act before is one more look at the record.
        """
        view = read_record_view(self.state)
        if view.ready or not await self.is_complete(now):
            return
        try:
            target = self.target(await self.record())
        except FraudopsError:
            return
        if target and target.epoch == now.epoch:
            write(
                record_view_path(self.state),
                RecordView(epoch=now.epoch, version=now.version, ready=True),
            )
            logger.info("the pod is ready", extra={"epoch": now.epoch, "version": now.version})

    async def _fetch(self, entry: ServingTarget, deadline: float) -> str:
        """Opens the entry's bundle in every worker and returns its source."""
        sources = [
            source
            for worker in await self.workers()
            if worker.reply
            for digest, source in worker.reply.warm.items()
            if digest == entry.digest
        ]
        ask = Ask(
            op="prepare",
            version=entry.version,
            digest=entry.digest,
            epoch=entry.epoch,
            seconds=PREPARE_SECONDS,
        )
        return await self._open(ask, deadline, *sources[:1])

    async def _open(self, ask: Ask, deadline: float, source: str = "cache") -> str:
        """Opens a bundle in every worker and returns where it came from.

        One that was proved before is only opened; if that fails it is proved anew.
        """
        if self.cache.is_verified(ask.digest):
            try:
                await self._prepare_all(msgspec.structs.replace(ask, source=source), deadline)
                return source
            except RefusedError as refusal:
                logger.warning(
                    "a bundle that was proved before is proved anew",
                    extra={"digest": ask.digest, "reason": str(refusal)},
                )
        source = await self.cache.ensure(
            ask.version, ask.digest, max(deadline - time.monotonic(), STATE_SECONDS)
        )
        await self._prepare_all(msgspec.structs.replace(ask, source=source), deadline)
        return source

    async def _prepare_all(self, ask: Ask, deadline: float) -> None:
        """Raises RefusedError when a worker says no, StoreDownError when one does not answer; then
        none keeps it.
        """
        answers = await self.run.ask_all(ask, max(deadline - time.monotonic(), STATE_SECONDS))
        if faults := [answer.fault for answer in answers if answer.fault]:
            await self.drop(ask.digest)
            kind = RefusedError if all(answer.reply for answer in answers) else StoreDownError
            raise kind(f"version {ask.version} was not prepared: {'; '.join(faults)}")

    async def _activate_all(self, now: PodState) -> None:
        if now.version is None or now.digest is None:
            return
        ask = Ask(
            op="activate",
            epoch=now.epoch,
            version=now.version,
            digest=now.digest,
            source=now.source or "cache",
        )
        answers = await self.run.ask_all(ask, ACTIVATE_SECONDS)
        if faults := [answer.fault for answer in answers if answer.fault]:
            raise StoreDownError(
                f"the pod is at epoch {now.epoch}, but not every worker has followed: "
                f"{'; '.join(faults)}"
            )

    async def _prune(self, now: PodState) -> None:
        prepared = {
            digest
            for worker in await self.workers()
            if worker.reply
            for digest in worker.reply.warm
        }
        await asyncio.to_thread(self.cache.prune, {now.digest or "", *now.served, *prepared})

    @asynccontextmanager
    async def _locked(self, seconds: float) -> AsyncIterator[None]:
        """The kernel frees the lock when its holder dies. Raises StoreDownError."""
        end = time.monotonic() + seconds
        descriptor = os.open(
            self.state.run / "pod.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            while not try_lock(descriptor):
                if time.monotonic() > end:
                    raise StoreDownError(
                        "another call to this pod is still being carried out; try again"
                    )
                await asyncio.sleep(0.01)
            yield
        finally:
            os.close(descriptor)


def _named(
    entry: ServingTarget | None, epoch: int, version: str | None, digest: str | None
) -> ServingTarget:
    if entry is None:
        raise RefusedError("no model has been promoted: the serving record is empty")
    if entry.epoch < epoch:
        raise RefusedError(f"the serving record is at epoch {entry.epoch}, not yet at {epoch}")
    another = (version or entry.version) != entry.version or (
        digest or entry.digest
    ) != entry.digest
    if another and epoch in (0, entry.epoch):
        raise RefusedError(
            f"the serving record names version {entry.version}: use promote to move to another one"
        )
    return entry
