"""The admin calls of promoters to the simulated pods."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fraudops.errors import FraudopsError, RefusedError
from fraudops.promotion import pod_rules
from fraudops.promotion.ports import (
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    UnknownWriteError,
)
from fraudops.promotion.serving_record import ServingTarget
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.network import get
from tests.support.simulation.store import API
from tests.support.simulation.world import Actor, SimulatedWorld

Answer = TypeVar("Answer")
ACTIVATE_SECONDS = 10.0


class SimPods:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def list(self) -> Sequence[PodRef]:
        down = self.world.store.api_down_until
        refs = await get(self.world, self.actor, self.world.cluster.refs, down, API)
        rules = self.world.rules
        self.actor.listed = tuple(refs)
        return [
            ref
            for ref in refs
            if (rules.gone_means_gone or not ref.terminating)
            and (rules.lists_all or ref.takes_connections)
        ]

    async def desired_replicas(self) -> int:
        cluster, down = self.world.cluster, self.world.store.api_down_until
        return await get(self.world, self.actor, lambda: cluster.replicas, down, API)

    async def epoch(self, pod: PodRef) -> int:
        async def look(found: SimPod) -> int:
            return found.state.epoch

        return await self._call(pod, look, 2.0)

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        async def work(found: SimPod) -> None:
            try:
                await self.world.cluster.prepare(found, target, seconds)
            except RefusedError:
                self.world.note(f"{found.name} refuses version {target.version}")
                found.refused_epochs.add(target.epoch)
                raise

        await self._call(pod, work, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        async def work(found: SimPod) -> int:
            return await self.world.cluster.activate(found, epoch)

        self.actor.activated = self.actor.listed
        try:
            reached = await self._call(pod, work, min(seconds, ACTIVATE_SECONDS))
        finally:
            self.actor.activated_at = self.actor.own_time(self.world.clock)
        if reached >= epoch:
            self.actor.confirmed.add(f"{pod.name}/{epoch}")
        return reached

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        async def work(found: SimPod) -> None:
            known = found.prepared.get(target.digest)
            if known and pod_rules.replaces_prepared(target, known[0]):
                found.prepared.pop(target.digest)

        await self._call(pod, work, 2.0)

    async def delete(self, pod: PodRef) -> None:
        await self.world.step(self.actor)
        if self.world.happens("lost deletion", self.actor.name):
            raise UnknownWriteError("the Kubernetes API does not answer")
        found = self.world.cluster.find(pod.name)
        if not found.terminating and not found.gone:
            self.world.spawn(self.world.cluster.end(found))
        await self.world.step(self.actor)

    async def _call(
        self, pod: PodRef, work: Callable[[SimPod], Coroutine[Any, Any, Answer]], seconds: float
    ) -> Answer:
        """Let the pod work for at most `seconds`. Its work goes on when the caller has ended."""
        world, found = self.world, self.world.cluster.find(pod.name)
        await world.step(self.actor)
        hears = found.up and found.lost not in ("dark", "kept")
        silent = world.clock < found.silent_until and not world.calm
        if not hears or silent or world.happens("lost call", self.actor.name):
            hangs = world.choices.number("hangs", self.actor.name) < 0.3
            self.actor.unanswered.add(pod.name)
            await world.step(self.actor, seconds if hangs else 0.1)
            raise PodUnresponsiveError("no answer")
        task = world.spawn(_outcome(work(found)))
        await self._wait(task, seconds)
        if not task.done() or world.happens("lost call", self.actor.name):
            self.actor.unanswered.add(pod.name)
            raise PodUnresponsiveError("no answer in time")
        answer, error = task.result()
        if isinstance(error, RefusedError):
            raise PodRefusedError(str(error))
        if error:
            raise PodUnresponsiveError(str(error))
        return answer

    async def _wait(self, task: "asyncio.Task[Any]", seconds: float) -> None:
        if not task.done():
            timer = asyncio.ensure_future(self.world.step(self.actor, seconds))
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
        # A dead caller gets no answer: none of its steps ends.
        await self.world.step(self.actor)


async def _outcome(work: Coroutine[Any, Any, Answer]) -> tuple[Any, FraudopsError | None]:
    try:
        return await work, None
    except FraudopsError as error:
        return None, error
