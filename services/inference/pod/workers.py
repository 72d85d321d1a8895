"""Calls to all workers of a pod together."""

import time
from collections.abc import Sequence

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import ServingTarget
from services.inference.pod.worker_channel import Ask, RunFolder, WorkerAnswer

STATE_SECONDS = 1.0
ACTIVATE_SECONDS = 10.0


class Workers:
    """The registered workers of this pod; there should be `wanted` of them."""

    def __init__(self, run: RunFolder, wanted: int) -> None:
        self._run, self._wanted = run, wanted

    async def states(self) -> list[WorkerAnswer]:
        return await self._run.ask_all(Ask(op="state"), STATE_SECONDS)

    async def prepared(self) -> dict[str, str]:
        """Return the digests that a worker has prepared, with the sources of their bundles."""
        prepared: dict[str, str] = {}
        for worker in await self.states():
            prepared |= worker.reply.prepared if worker.reply else {}
        return prepared

    async def all_serve(self, now: PodState) -> bool:
        """Whether every registered worker serves what the pod does."""
        workers = await self.states()
        return bool(workers) and _all_serve(workers, now)

    async def is_complete(self, now: PodState) -> bool:
        """Whether as many workers as there should be serve the pod's model."""
        workers = await self.states()
        return now.target is not None and len(workers) >= self._wanted and _all_serve(workers, now)

    async def prepare(
        self, target: ServingTarget, source: str, keep_seconds: float, deadline: float
    ) -> list[WorkerAnswer]:
        """Make every worker open the target's bundle until the deadline, or none of them.

        Each worker drops it after `keep_seconds`. The deadline is a time of `time.monotonic`.
        """
        ask = Ask(op="prepare", target=target, source=source, seconds=keep_seconds)
        answers = await self._run.ask_all(ask, seconds_until(deadline))
        if any(answer.fault for answer in answers):
            await self.drop(target)
        return answers

    async def activate(self, now: PodState) -> None:
        """Make every worker serve what the pod does. Raises StoreDownError when one does not.

        The pod has committed, so a worker's refusal is not final: the poller tries again.
        """
        if now.target is None:
            return
        ask = Ask(op="activate", target=now.target, source=now.source or "cache")
        if faults := _faults(await self._run.ask_all(ask, ACTIVATE_SECONDS)):
            raise StoreDownError(
                f"the pod is at epoch {now.epoch}, but not every worker has followed: {faults}"
            )

    async def drop(self, target: ServingTarget) -> None:
        await self._run.ask_all(Ask(op="drop", target=target), STATE_SECONDS)

    async def drain(self) -> None:
        """Make every worker drain. Raises StoreDownError when one does not answer."""
        if faults := _faults(await self._run.ask_all(Ask(op="drain"), STATE_SECONDS)):
            raise StoreDownError(faults)


def seconds_until(deadline: float) -> float:
    """Return how long to wait; a passed deadline still leaves time for a quick answer."""
    return max(deadline - time.monotonic(), STATE_SECONDS)


def prepare_failure(version: str, answers: Sequence[WorkerAnswer]) -> FraudopsError | None:
    """Return why the version is not prepared in every worker, or None when it is.

    It is final only if no worker may prepare the version later.
    """
    faults = _faults(answers)
    if not faults:
        return None
    temporary = any(answer.is_temporary_fault for answer in answers)
    kind = StoreDownError if temporary else RefusedError
    return kind(f"version {version} was not prepared: {faults}")


def _faults(answers: Sequence[WorkerAnswer]) -> str:
    return "; ".join(answer.fault for answer in answers if answer.fault)


def _all_serve(workers: Sequence[WorkerAnswer], now: PodState) -> bool:
    return all(worker.reply and worker.reply.target == now.target for worker in workers)
