"""Poller of the serving record, which runs in one worker of the pod.

Every few seconds it reads the record and makes the pod follow it, as /reload does.
"""

import asyncio
import logging
import os
import time

import msgspec

from fraudops.errors import FraudopsError
from fraudops.files import try_lock
from fraudops.promotion.serving_record import ServingRecord, ServingTarget, target_of
from services.inference.metrics import Metrics
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import (
    PodState,
    RecordView,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.worker_channel import WorkerAnswer

logger = logging.getLogger(__name__)
STARTING_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 15.0


class Poller:
    """Runs in every worker, but polls only in the worker that holds `poller.lock`.

    If that worker dies, the kernel releases the lock and another worker gets it.
    """

    def __init__(self, pod: PodCoordinator, metrics: Metrics, poll_seconds: float) -> None:
        self._pod, self._metrics, self._poll_seconds = pod, metrics, poll_seconds
        self._failed: tuple[int, str] | None = None
        self._pause, self._next_try = poll_seconds, 0.0

    async def run(self) -> None:
        descriptor = os.open(
            self._pod.state.run / "poller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            while True:
                try:
                    starting = try_lock(descriptor) and await self._look()
                except OSError as error:
                    # A full disk: the pod serves what it serves, and looks again.
                    logger.error(
                        "what was seen of the serving record cannot be written down",
                        extra={"reason": error.strerror},
                    )
                    starting = False
                await asyncio.sleep(STARTING_SECONDS if starting else self._poll_seconds)
        finally:
            os.close(descriptor)

    async def _look(self) -> bool:
        """Notes what the record says and whether the pod is ready.

        True while the pod only waits for its workers to start.
        """
        before = read_record_view(self._pod.state)
        try:
            record = await self._pod.record()
        except FraudopsError as error:
            view = msgspec.structs.replace(before, error=str(error))
        else:
            self._metrics.record_read(record.epoch, record.alias_epoch)
            target = self._pod.target(record)
            fault = await self._follow(record, target)
            if read_pod_state(self._pod.state).epoch == record.epoch:
                target = target_of(record, None)
            view = msgspec.structs.replace(
                before,
                epoch=target.epoch if target else 0,
                version=target.version if target else None,
                error=fault,
            )
        caught_up = await self._has_caught_up(view)
        if caught_up and not view.ready and not await self._has_moved(view):
            view = msgspec.structs.replace(view, ready=True)
        if caught_up and not view.error:
            view = msgspec.structs.replace(view, refused=None)
        if view != before:
            _tell(before, view)
            write(record_view_path(self._pod.state), view)
        return not view.ready and not view.error and view.epoch > 0

    async def _follow(self, record: ServingRecord, target: ServingTarget | None) -> str | None:
        """Why the pod does not follow the record, None when it does."""
        now, epoch = read_pod_state(self._pod.state), target.epoch if target else 0
        if epoch < now.epoch:
            return (
                f"the serving record went back to epoch {epoch}, this pod stays at {now.epoch}: "
                "promote again, or restore the record"
            )
        behind = now.is_behind(epoch)
        if not behind and target and target.digest != now.digest:
            return (
                f"the serving record names another model for epoch {epoch} than this pod serves: "
                "promote again"
            )
        if not behind and _all_at(now, await self._pod.workers()):
            self._failed = None
            return None
        if self._failed and self._failed[0] == epoch and time.monotonic() < self._next_try:
            return self._failed[1]
        try:
            await (self._pod.activate() if behind else self._pod.finish())
        except FraudopsError as error:
            failure = (
                str(error)
                if epoch == record.epoch
                else await self._fall_back(record, now, str(error))
            )
            return self._put_off(epoch, failure)
        return None

    async def _fall_back(self, record: ServingRecord, now: PodState, failure: str) -> str:
        """A newborn of a rollout that cannot load its version takes the record's, and says so."""
        try:
            if now.is_behind(record.epoch):
                await self._pod.fall_back()
        except FraudopsError as error:
            return f"{failure}; and what serves elsewhere: {error}"
        return f"the rollout's version was refused, this pod serves the record's: {failure}"

    def _put_off(self, epoch: int, failure: str) -> str:
        """Bringing and proving a bundle is not free: what failed is tried again after pauses that
        double, a new epoch at once.
        """
        again = self._failed is not None and self._failed[0] == epoch
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if again else self._poll_seconds
        self._failed, self._next_try = (epoch, failure), time.monotonic() + self._pause
        return failure

    async def _has_caught_up(self, view: RecordView) -> bool:
        """Behind the record the pod has not; ahead of it, or when it cannot be read, what the pod
        has is the best there is.
        """
        now = read_pod_state(self._pod.state)
        if not await self._pod.is_complete(now):
            return False
        return now.epoch == view.epoch or (view.error is not None and now.epoch > view.epoch)

    async def _has_moved(self, view: RecordView) -> bool:
        """The last look before the pod turns ready: a promotion that has committed meanwhile did
        not wait for it.
        """
        try:
            record = await self._pod.record()
        except FraudopsError:
            return False
        target = self._pod.target(record)
        return view.epoch not in (record.epoch, target.epoch if target else 0)


def _all_at(now: PodState, workers: list[WorkerAnswer]) -> bool:
    return bool(workers) and all(
        worker.reply and worker.reply.epoch == now.epoch for worker in workers
    )


def _tell(before: RecordView, view: RecordView) -> None:
    if view.error and view.error != before.error:
        logger.warning("the pod does not follow the serving record", extra={"reason": view.error})
    if view.ready and not before.ready:
        logger.info("the pod is ready", extra={"epoch": view.epoch, "version": view.version})
