"""Poller of the serving record, which runs in one worker of the pod.

Every few seconds it reads the record and makes the pod follow it, as /reload does.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass

import msgspec

from fraudops.errors import FraudopsError
from fraudops.files import try_lock
from fraudops.promotion.pod_rules import (
    Follow,
    Report,
    awaited_target,
    destination,
    has_caught_up,
    is_ready_without_model,
    on_record,
)
from fraudops.promotion.serving_record import EMPTY, ServingRecord, ServingTarget
from services.inference.metrics import Metrics
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import (
    RecordView,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)

logger = logging.getLogger(__name__)
STARTING_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True)
class Failure:
    """The last try that failed, and when the poller tries the same target again.

    `pause` is in seconds, and `next_try` is a time of `time.monotonic`.
    """

    target: ServingTarget | None
    fault: str
    pause: float
    next_try: float


class Poller:
    """Runs in every worker, but polls only in the worker that holds `poller.lock`.

    If that worker dies, the kernel releases the lock and another worker gets it.
    """

    def __init__(self, pod: PodCoordinator, metrics: Metrics, poll_seconds: float) -> None:
        self._pod, self._metrics, self._poll_seconds = pod, metrics, poll_seconds
        self._failed: Failure | None = None

    async def run(self) -> None:
        """Poll until the task is cancelled."""
        descriptor = os.open(
            self._pod.state.run / "poller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            while True:
                try:
                    starting = try_lock(descriptor) and await self._look()
                except OSError as error:
                    # On a full disk the pod keeps what it serves, and the poller looks again.
                    logger.error(
                        "the poller cannot write what it saw of the serving record",
                        extra={"reason": error.strerror},
                    )
                    starting = False
                await asyncio.sleep(STARTING_SECONDS if starting else self._poll_seconds)
        finally:
            os.close(descriptor)

    async def _look(self) -> bool:
        """Read the record, follow it, and write down whether the pod is ready.

        Returns True while the pod only waits for its workers to start.
        """
        before = read_record_view(self._pod.state)
        view = await self._after_record(before)
        view = _with_written(view, before, read_record_view(self._pod.state))
        now = read_pod_state(self._pod.state)
        caught_up = has_caught_up(now, view.target) and await self._pod.workers.is_complete(now)
        if caught_up and not view.ready:
            view = await self._pod.last_look(now, view)
        if caught_up and not view.error:
            view = msgspec.structs.replace(view, refused=None)
        if view != before:
            _log(before, view)
            write(record_view_path(self._pod.state), view)
        return not view.ready and not view.error and view.target is not None

    async def _after_record(self, before: RecordView) -> RecordView:
        """Return the view after the pod has read and followed the record, or could not."""
        try:
            stored = await self._pod.stored_record()
        except FraudopsError as error:
            # The record may have named a model since the last look.
            return msgspec.structs.replace(before, error=str(error), without_model=False)
        record = stored or EMPTY
        self._metrics.record_read(record.epoch, record.alias_epoch)
        fault = await self._follow(record)
        now = read_pod_state(self._pod.state)
        awaited = awaited_target(now, record, self._pod.template)
        without_model = is_ready_without_model(now, awaited, stored)
        return msgspec.structs.replace(
            before, target=awaited, error=fault, without_model=without_model
        )

    async def _follow(self, record: ServingRecord) -> str | None:
        """Make the pod follow the record. Return why it does not, or None when it does."""
        now = read_pod_state(self._pod.state)
        step = on_record(now, record, self._pod.template)
        if isinstance(step, Report):
            return step.reason
        target = step.target if isinstance(step, Follow) else now.target
        if not isinstance(step, Follow) and await self._pod.workers.all_serve(now):
            self._failed = None
            return None
        failed = self._failed_with(target)
        if failed and time.monotonic() < failed.next_try:
            return failed.fault
        try:
            await (self._pod.activate() if isinstance(step, Follow) else self._pod.finish())
        except FraudopsError as error:
            fault = str(error)
            if isinstance(step, Follow):
                fault = await self._without_template(record, step.target, fault)
            return self._put_off(target, fault)
        return None

    async def _without_template(
        self, record: ServingRecord, target: ServingTarget, fault: str
    ) -> str:
        """Return why the pod does not serve the target.

        A new pod of a rollout that cannot load its template's target follows the record's own.
        """
        own = destination(record, None)
        if own is None or target == own:
            return fault
        try:
            await self._pod.follow_without_template()
        except FraudopsError as error:
            return f"{fault}; and the version that the other pods serve: {error}"
        return f"the rollout's version was refused, this pod serves the record's: {fault}"

    def _put_off(self, target: ServingTarget | None, fault: str) -> str:
        """Plan the next try: after each failure of the same target the wait doubles.

        A try downloads and verifies a bundle, which takes time from the workers.
        """
        failed = self._failed_with(target)
        pause = min(2 * failed.pause, LONGEST_PAUSE_SECONDS) if failed else self._poll_seconds
        self._failed = Failure(target, fault, pause, time.monotonic() + pause)
        return fault

    def _failed_with(self, target: ServingTarget | None) -> Failure | None:
        return self._failed if self._failed and self._failed.target == target else None


def _with_written(view: RecordView, before: RecordView, written: RecordView) -> RecordView:
    """Return the view with what an activation has written since the look began.

    The activation may have made the pod ready. Its last look may also have seen a later commit
    than this look.
    """
    target = view.target
    if written.target and written.target != before.target:
        later = target is None or written.target.epoch > target.epoch
        target = written.target if later else target
    return msgspec.structs.replace(view, ready=written.ready, target=target)


def _log(before: RecordView, view: RecordView) -> None:
    if view.without_model and not before.without_model:
        logger.info("the serving record exists and has not named a model yet")
    if view.error and view.error != before.error:
        logger.warning("the pod does not follow the serving record", extra={"reason": view.error})
    if view.ready and not before.ready:
        target = view.target
        logger.info(
            "the pod is ready",
            extra={
                "epoch": target.epoch if target else 0,
                "version": target.version if target else None,
            },
        )
