"""The states of the workers, for clients who ask whether the pod is ready."""

import asyncio
import time
from collections.abc import Callable

from fraudops.promotion.pod_rules import PodState
from services.inference.pod.worker_channel import WorkerAnswer
from services.inference.pod.workers import Workers

KEPT_SECONDS = 0.1


class WorkerStates:
    """Asks each worker once for all requests that come at the same time.

    Any client may ask whether the pod is ready. If each request opened a connection to each worker,
    they would fill the queues of the workers' sockets. A promotion needs the same sockets. It asks
    `Workers` directly.
    """

    def __init__(self, workers: Workers, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers, self._clock = workers, clock
        self._asking: asyncio.Task[list[WorkerAnswer]] | None = None
        # What the pod served when the question began, and when that was.
        self._asked_for, self._asked_at = PodState(), 0.0

    async def of(self, now: PodState) -> list[WorkerAnswer]:
        """Return the state of every worker, while the pod serves `now`.

        It may be KEPT_SECONDS old if every worker serves what the pod does.
        """
        if self._asking is None or self._asked_for != now or not self._is_kept(self._asking):
            self._asked_for, self._asked_at = now, self._clock()
            self._asking = asyncio.create_task(self._workers.states())
        return await asyncio.shield(self._asking)

    def _is_kept(self, asking: "asyncio.Task[list[WorkerAnswer]]") -> bool:
        if not asking.done():
            return True
        if asking.cancelled() or asking.exception():
            return False
        return self._clock() < self._asked_at + KEPT_SECONDS and all(
            worker.reply and not worker.fault and worker.reply.target == self._asked_for.target
            for worker in asking.result()
        )
