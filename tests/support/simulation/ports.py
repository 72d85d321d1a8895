"""The ports of a promotion over the simulated world.

Every call contains a step: a point at which anything else may happen.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fraudops.errors import StoreDownError
from fraudops.promotion.ports import (
    Attempt,
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.serving_record import ServingEntry, ServingRecord, ServingTarget
from tests.support.simulation.world import LEASE_SECONDS, Actor, SimPod, SimulatedWorld, Violation


class SimRecords:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def read(self) -> tuple[ServingRecord, Any]:
        await self.world.step(self.actor)
        return self.world.record, self.world.token

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        world = self.world
        await world.step(self.actor)
        if world.chance(0.02):
            raise UnknownWriteError("the request was lost")
        if token != world.token:
            raise StaleRecordError("stale")
        if record.current and record.current != world.record.current:
            self._check_commit(record.current)
        world.record, world.token = record, world.token + 1
        written = world.token
        await world.step(self.actor)
        if world.chance(0.03):
            raise UnknownWriteError("the answer was lost")
        return written

    def _check_commit(self, entry: ServingEntry) -> None:
        world = self.world
        if not (entry.verdict or entry.waiver):
            raise Violation(f"version {entry.version} was committed without verdict or waiver")
        if entry.epoch <= world.record.epoch:
            raise Violation("an epoch that does not grow was committed")
        if entry.epoch in world.vetoed:
            raise Violation(
                f"epoch {entry.epoch} was committed although a ready pod had refused it"
            )
        if not entry.undo and entry.by in world.committed_by:
            raise Violation(f"{entry.by} has committed twice")
        world.committed_by.add(entry.by)
        world.commits.append((entry.epoch, entry.digest))
        undo = " (undo)" if entry.undo else ""
        world.note(f"{self.actor.name} commits epoch {entry.epoch} {entry.digest}{undo}")


class SimLock:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        world, end = self.world, self.world.clock + 240
        while world.lease and world.lease[0] != self.actor.name and world.lease[1] > world.clock:
            if world.clock > end:
                raise StoreDownError("another promotion has the lock")
            await world.step(self.actor, 1.0)
        world.lease = (self.actor.name, world.clock + LEASE_SECONDS)
        renewal = world.spawn(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            if self.actor.alive and world.lease and world.lease[0] == self.actor.name:
                world.lease = None

    async def _renew(self) -> None:
        while self.world.lease and self.world.lease[0] == self.actor.name:
            self.world.lease = (self.actor.name, self.world.clock + LEASE_SECONDS)
            await self.world.step(self.actor, 5.0)

    async def held(self) -> bool:
        await self.world.step(self.actor)
        lease = self.world.lease
        return lease is not None and lease[0] == self.actor.name


class SimAliases:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def get(self, alias: str) -> str | None:
        await self._call()
        return self.world.aliases.get(alias)

    async def set(self, alias: str, version: str) -> None:
        await self._call()
        self.world.aliases[alias] = version
        self.world.note(f"{self.actor.name} sets alias {alias} to {version}")
        await self.world.step(self.actor)

    async def _call(self) -> None:
        await self.world.step(self.actor)
        if self.world.clock < self.world.registry_down_until or self.world.chance(0.01):
            raise StoreDownError("MLflow is away")


class SimPods:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    def _find(self, pod: PodRef) -> SimPod:
        return next(other for other in self.world.pods if other.name == pod.name)

    async def list(self) -> Sequence[PodRef]:
        await self.world.step(self.actor)
        rules = self.world.rules
        listed = [
            pod
            for pod in self.world.pods
            if not pod.gone and (rules.gone_means_gone or not pod.terminating)
        ]
        return [
            PodRef(pod.name, pod.ready)
            for pod in listed
            if rules.list_all or (pod.ready and not pod.terminating)
        ]

    async def desired_replicas(self) -> int:
        return self.world.replicas

    async def epoch(self, pod: PodRef) -> int:
        reached = await self._reach(pod, 2.0)
        return reached.epoch

    async def _reach(self, pod: PodRef, seconds: float) -> SimPod:
        """Deliver a message to a pod.

        Raises PodUnresponsiveError, after some time, if no answer can arrive.
        """
        world, target = self.world, self._find(pod)
        await world.step(self.actor)
        if target.gone or not target.up or world.clock < target.silent_until or world.chance(0.02):
            await world.step(self.actor, seconds if world.chance(0.3) else 0.1)
            raise PodUnresponsiveError("no answer")
        return target

    async def _answered(self, seconds: float) -> None:
        await self.world.step(self.actor)
        if self.world.chance(0.02):
            await self.world.step(self.actor, seconds if self.world.chance(0.3) else 0.1)
            raise PodUnresponsiveError("the answer was lost")

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        reached = await self._reach(pod, seconds)
        deadline = self.world.clock + seconds + 30
        await self.world.step(None, reached.slow * self.world.random.random())
        await self.world.step(self.actor)
        if target.digest in reached.refuses or target.epoch <= reached.epoch:
            if reached.ready:
                self.world.vetoed.add(target.epoch)
            raise PodRefusedError("cannot serve it")
        reached.prepared[target.digest] = (target.epoch, deadline)
        await self._answered(seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        reached = await self._reach(pod, seconds)
        await self.world.follow(reached)
        await self._answered(seconds)
        return reached.epoch

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        reached = await self._reach(pod, 2.0)
        reached.prepared.pop(target.digest, None)
        await self._answered(2.0)

    async def delete(self, pod: PodRef) -> None:
        await self.world.step(self.actor)
        target = self._find(pod)
        if not target.terminating:
            self.world.spawn(self.world.end_of(target))


class SimRollouts:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def annotate(self, target: ServingTarget) -> None:
        await self.world.step(self.actor)
        self.world.template = (target.epoch, target.digest)
        self.world.annotated.add((target.epoch, target.digest))
        self.world.note(f"{self.actor.name} annotates epoch {target.epoch} {target.digest}")
        await self.world.step(self.actor)
        if self.world.chance(0.02):
            raise UnknownWriteError("the answer was lost")

    async def undo(self, epoch: int) -> None:
        await self.world.step(self.actor)
        if self.world.template and self.world.template[0] == epoch:
            self.world.template = None
            self.world.note(f"{self.actor.name} takes the annotation of epoch {epoch} away")
        await self.world.step(self.actor)


class SimJournal:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def write(self, attempt: Attempt) -> None:
        await self.world.step(self.actor)
        self.world.rows[attempt.request] = attempt


class SimClock:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    def now(self) -> float:
        return self.world.clock

    def timestamp(self) -> str:
        return f"2026-01-01T00:00:00Z+{self.world.clock:.3f}"

    async def sleep(self, seconds: float) -> None:
        await self.world.step(self.actor, seconds)
