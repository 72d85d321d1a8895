"""One worker of the pod looks at the serving record every few seconds and lets the pod follow it, by the same road as /reload."""

import asyncio
import logging
import os

import msgspec

from fraudops.errors import FraudopsError
from fraudops.promotion.record import ServingRecord
from services.inference.channel import WorkerAnswer
from services.inference.metrics import Metrics
from services.inference.pod import Pod, try_lock
from services.inference.pod_files import PodState, RecordView, read_pod_state, read_record_view, record_view_path, view_of, write

logger = logging.getLogger(__name__)
STARTING_SECONDS = 0.05


class Poller:
    """Runs in every worker; who holds `poller.lock` works, and the kernel hands it on when that one dies."""

    def __init__(self, pod: Pod, metrics: Metrics, workers: int, poll_seconds: float) -> None:
        self._pod, self._metrics, self._workers, self._poll_seconds = pod, metrics, workers, poll_seconds

    async def run(self) -> None:
        descriptor = os.open(self._pod.state.run / "poller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                quick = try_lock(descriptor) and await self._look()
                await asyncio.sleep(STARTING_SECONDS if quick else self._poll_seconds)
        finally:
            os.close(descriptor)

    async def _look(self) -> bool:
        """True while the pod is only waiting for its workers to start."""
        before = read_record_view(self._pod.state)
        try:
            record = await self._pod.record()
        except FraudopsError as error:
            view = msgspec.structs.replace(before, error=str(error))
        else:
            self._metrics.record_read(record.epoch)
            view = view_of(record, before, await self._follow(record))
        now, workers = read_pod_state(self._pod.state), await self._pod.workers()
        settled = now.digest is not None and _all_at(now, workers) and len(workers) >= self._workers
        # Behind the record it cannot become ready; ahead of it, or when it cannot be read, what the pod has is the best there is.
        caught_up = settled and (now.epoch == view.epoch or (view.error is not None and now.epoch > view.epoch))
        if before.ready or caught_up:
            view = msgspec.structs.replace(view, ready=True)
        if caught_up and not view.error:
            view = msgspec.structs.replace(view, refused=None)
        if view != before:
            _tell(before, view)
            write(record_view_path(self._pod.state), view)
        return not view.ready and not view.error and view.epoch > 0

    async def _follow(self, record: ServingRecord) -> str | None:
        """Why the pod does not follow the record, None when it does."""
        now = read_pod_state(self._pod.state)
        try:
            if now.is_behind(record.epoch):
                await self._pod.follow()
            elif record.epoch < now.epoch:
                return f"the serving record went back to epoch {record.epoch}, this pod stays at {now.epoch}: promote again, or restore the record"
            elif record.current and record.current.digest != now.digest:
                return f"the serving record names another model for epoch {record.epoch} than this pod serves: promote again"
            elif not _all_at(now, await self._pod.workers()):
                await self._pod.finish()
        except FraudopsError as error:
            return str(error)
        return None


def _all_at(now: PodState, workers: list[WorkerAnswer]) -> bool:
    return bool(workers) and all(worker.reply and worker.reply.epoch == now.epoch for worker in workers)


def _tell(before: RecordView, view: RecordView) -> None:
    if view.error and view.error != before.error:
        logger.warning("the pod does not follow the serving record", extra={"reason": view.error})
    if view.ready and not before.ready:
        logger.info("the pod is ready", extra={"epoch": view.epoch, "version": view.version})
