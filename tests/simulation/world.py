"""A cluster of fake pods, one record, one registry, one lease; messages are lost, pods are slow, refuse, die and are born, promoters are killed and paused."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fraudops.errors import StoreDownError
from fraudops.promotion.ports import Attempt, Pod, PodRefusedError, PodSilentError, StaleRecordError, Target, UnknownWriteError
from fraudops.promotion.record import EMPTY, Entry, ServingRecord

LEASE_SECONDS = 15.0
POLL_SECONDS = 2.0


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass(frozen=True)
class Rules:
    """The pods' rules of PROMOTION.md, each of which can be switched off."""

    refuse_lower_epochs: bool = True
    pods_poll: bool = True
    gone_means_gone: bool = True
    list_all: bool = True
    annotation_needs_the_record: bool = True


@dataclass
class Actor:
    """A promoter's process: killed at a step, it never runs again; paused at one, its steps wait."""

    name: str
    kill_at: int | None = None
    pause_at: int | None = None
    pause_seconds: float = 0.0
    steps: int = 0
    alive: bool = True
    paused_until: float = 0.0


@dataclass(eq=False)
class Waiter:
    future: "asyncio.Future[None]"
    due: float
    actor: Actor | None


Template = tuple[int, str] | None


@dataclass(eq=False)
class SimPod:
    name: str
    up: bool = False
    ready: bool = False
    gone: bool = False
    terminating: bool = False
    silent_until: float = 0.0
    slow: float = 0.0
    refuses: frozenset[str] = frozenset()
    epoch: int = 0
    digest: str | None = None
    prepared: dict[str, tuple[int, float]] = field(default_factory=dict)
    template: Template = None
    born_at: float = 0.0


class World:
    """Time, chance and truth of one seed."""

    def __init__(self, seed: int, rules: Rules = Rules(), calm: bool = False) -> None:
        self.random = random.Random(seed)
        self.rules, self.calm = rules, calm
        self.clock = 0.0
        self.waiting: list[Waiter] = []
        self.record: ServingRecord = EMPTY
        self.token = 0
        self.aliases: dict[str, str] = {}
        self.registry_down_until = 0.0
        self.pods: list[SimPod] = []
        self.born = 0
        self.replicas = 0
        self.lease: tuple[str, float] | None = None
        self.rows: dict[str, Attempt] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.trace: list[str] = []
        self.promised: tuple[int, str] | None = None
        self.commits: list[tuple[int, str]] = []
        self.committed_by: set[str] = set()
        self.vetoed: set[int] = set()
        self.template: Template = None
        self.annotated: set[tuple[int, str]] = set()
        self.restored = False

    # -- time and chance

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock:8.2f} {text}")

    def chance(self, probability: float) -> bool:
        return not self.calm and self.random.random() < probability

    def advance(self) -> None:
        """Resolves one waiting step, chosen by chance among those that are due; else time jumps."""
        runnable = [w for w in self.waiting if not w.future.done() and (w.actor is None or w.actor.alive)]
        if not runnable:
            raise RuntimeError("the world has stopped: nothing waits\n" + "\n".join(self.trace[-20:]))

        def due(waiter: Waiter) -> float:
            return max(waiter.due, waiter.actor.paused_until if waiter.actor else 0.0)

        first = min(map(due, runnable))
        ready = [w for w in runnable if due(w) <= max(self.clock, first) + 0.05]
        chosen = self.random.choice(ready)
        self.clock = max(self.clock, due(chosen))
        self.waiting.remove(chosen)
        self.check_promise()
        chosen.future.set_result(None)

    async def step(self, actor: Actor | None = None, seconds: float = 0.0) -> None:
        """One point at which anything else may happen, after at least `seconds`."""
        delay = seconds + self.random.random() * 0.04
        if actor:
            self._count(actor)
        waiter = Waiter(asyncio.get_running_loop().create_future(), self.clock + delay, actor)
        self.waiting.append(waiter)
        await waiter.future

    def _count(self, actor: Actor) -> None:
        actor.steps += 1
        if actor.steps == actor.kill_at:
            actor.alive = False
            self.note(f"{actor.name} is killed")
        elif actor.steps == actor.pause_at:
            actor.paused_until = self.clock + actor.pause_seconds
            self.note(f"{actor.name} is paused for {actor.pause_seconds:.0f} s")

    def spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.append(task)
        return task

    # -- what must hold at every moment

    def check_promise(self) -> None:
        """A promotion that returned success is kept by every pod that answers, until the next commit or the next reservation by rollout."""
        if self.promised and self.record.reserved and self.record.reserved.strategy == "rollout":
            self.promised = None
        if self.promised is None or self.promised[0] != self.record.epoch:
            return
        for pod in self.pods:
            if pod.ready and not pod.gone and pod.digest != self.promised[1]:
                raise Violation(f"{pod.name} answers with {pod.digest} after {self.promised[1]} was promised (epoch {self.promised[0]})")

    def serve(self, pod: SimPod, epoch: int, digest: str) -> None:
        if epoch < pod.epoch:
            raise Violation(f"{pod.name} went from epoch {pod.epoch} back to {epoch}")
        if epoch == pod.epoch and digest != pod.digest:
            raise Violation(f"{pod.name} changed its version within epoch {epoch}")
        if (epoch, digest) not in self.commits and (epoch, digest) not in self.annotated:
            raise Violation(f"{pod.name} serves {digest} at epoch {epoch}, which was never committed")
        pod.epoch, pod.digest = epoch, digest
        self.note(f"{pod.name} serves {digest} epoch {epoch}")

    # -- pods

    def birth(self, **traits: Any) -> SimPod:
        self.born += 1
        pod = SimPod(f"pod-{self.born}", template=self.template, born_at=self.clock, **traits)
        self.pods.append(pod)
        self.note(f"{pod.name} is born")
        self.spawn(self._live(pod))
        return pod

    async def _live(self, pod: SimPod) -> None:
        await self.step(seconds=0.3 + self.random.random() * 4)
        self._obey_annotation(pod)
        await self.follow(pod)
        pod.up = True
        while not pod.gone and pod.digest is None:
            await self.step(seconds=POLL_SECONDS)
            await self.follow(pod)
        await self.follow(pod)
        if not pod.gone:
            pod.ready = True
            self.note(f"{pod.name} is ready with {pod.digest} epoch {pod.epoch}")
        while not pod.gone:
            await self.step(seconds=POLL_SECONDS * (0.8 + 0.4 * self.random.random()))
            if self.rules.pods_poll and not self.chance(0.1) and self.clock >= pod.silent_until:
                await self.follow(pod)

    async def follow(self, pod: SimPod) -> None:
        """Reads the record now and swaps; between reading and swapping anything may happen."""
        entry = self.record.current
        await self.step(seconds=pod.slow * self.random.random())
        self._expire(pod)
        if entry is None or pod.gone or entry.digest in pod.refuses:
            return
        if entry.epoch <= pod.epoch and self.rules.refuse_lower_epochs:
            return
        if entry.digest not in pod.prepared:
            await self.step(seconds=0.3)
            if entry.epoch <= pod.epoch and self.rules.refuse_lower_epochs:
                return
        pod.prepared.pop(entry.digest, None)
        self.serve(pod, entry.epoch, entry.digest)

    def _obey_annotation(self, pod: SimPod) -> None:
        """Only while the record says the same: reserved, or already committed. A pod that cannot load it takes the record's."""
        if pod.template is None or pod.template[1] in pod.refuses:
            return
        known = [(entry.epoch, entry.digest) for entry in (self.record.reserved, self.record.current) if entry]
        if pod.template in known or not self.rules.annotation_needs_the_record:
            self.serve(pod, *pod.template)

    async def control(self) -> None:
        """The Deployment's controller: one pod more than wanted, none less; old templates are replaced by the present one."""
        while True:
            await self.step(seconds=1.0)
            living = [pod for pod in self.pods if not pod.gone and not pod.terminating]
            old = [pod for pod in living if pod.template != self.template]
            if len(living) < self.replicas or (old and len(living) == self.replicas):
                self.birth()
            elif old and sum(pod.ready for pod in living) > self.replicas:
                self.spawn(self.end_of(old[0]))

    def _expire(self, pod: SimPod) -> None:
        """Drops what was prepared beyond its deadline, or for an epoch that the record has passed."""
        kept = {digest: (epoch, end) for digest, (epoch, end) in pod.prepared.items() if end > self.clock and epoch >= self.record.epoch}
        pod.prepared = kept

    async def end_of(self, pod: SimPod) -> None:
        """A graceful end: the pod still answers while it drains, and is listed until its object is gone."""
        pod.terminating = True
        self.note(f"{pod.name} is asked to end")
        await self.step(seconds=1 + self.random.random() * 6)
        pod.ready, pod.up, pod.gone = False, False, True
        self.note(f"{pod.name} is gone")


class SimRecords:
    def __init__(self, world: World, actor: Actor) -> None:
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

    def _check_commit(self, entry: Entry) -> None:
        world = self.world
        if not (entry.verdict or entry.waiver):
            raise Violation(f"version {entry.version} was committed without verdict or waiver")
        if entry.epoch <= world.record.epoch:
            raise Violation("an epoch that does not grow was committed")
        if entry.epoch in world.vetoed:
            raise Violation(f"epoch {entry.epoch} was committed although a ready pod had refused it")
        if not entry.undo and entry.by in world.committed_by:
            raise Violation(f"{entry.by} has committed twice")
        world.committed_by.add(entry.by)
        world.commits.append((entry.epoch, entry.digest))
        world.note(f"{self.actor.name} commits epoch {entry.epoch} {entry.digest}{' (undo)' if entry.undo else ''}")


class SimLock:
    def __init__(self, world: World, actor: Actor) -> None:
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
    def __init__(self, world: World, actor: Actor) -> None:
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
    def __init__(self, world: World, actor: Actor) -> None:
        self.world, self.actor = world, actor

    def _find(self, pod: Pod) -> SimPod:
        return next(other for other in self.world.pods if other.name == pod.name)

    async def list(self) -> Sequence[Pod]:
        await self.world.step(self.actor)
        rules = self.world.rules
        listed = [pod for pod in self.world.pods if not pod.gone and (rules.gone_means_gone or not pod.terminating)]
        return [Pod(pod.name, pod.ready) for pod in listed if rules.list_all or (pod.ready and not pod.terminating)]

    async def wanted(self) -> int:
        return self.world.replicas

    async def epoch(self, pod: Pod) -> int:
        found = await self._reach(pod, 2.0)
        return found.epoch

    async def _reach(self, pod: Pod, seconds: float) -> SimPod:
        """The message arrives, or the caller learns after a while that nobody answered."""
        world, found = self.world, self._find(pod)
        await world.step(self.actor)
        if found.gone or not found.up or world.clock < found.silent_until or world.chance(0.02):
            await world.step(self.actor, seconds if world.chance(0.3) else 0.1)
            raise PodSilentError("no answer")
        return found

    async def _answered(self, seconds: float) -> None:
        await self.world.step(self.actor)
        if self.world.chance(0.02):
            await self.world.step(self.actor, seconds if self.world.chance(0.3) else 0.1)
            raise PodSilentError("the answer was lost")

    async def prepare(self, pod: Pod, target: Target, seconds: float) -> None:
        found = await self._reach(pod, seconds)
        deadline = self.world.clock + seconds + 30
        await self.world.step(None, found.slow * self.world.random.random())
        await self.world.step(self.actor)
        if target.digest in found.refuses or target.epoch <= found.epoch:
            if found.ready:
                self.world.vetoed.add(target.epoch)
            raise PodRefusedError("cannot serve it")
        found.prepared[target.digest] = (target.epoch, deadline)
        await self._answered(seconds)

    async def activate(self, pod: Pod, epoch: int, seconds: float) -> int:
        found = await self._reach(pod, seconds)
        await self.world.follow(found)
        await self._answered(seconds)
        return found.epoch

    async def drop(self, pod: Pod, target: Target) -> None:
        found = await self._reach(pod, 2.0)
        found.prepared.pop(target.digest, None)
        await self._answered(2.0)

    async def delete(self, pod: Pod) -> None:
        await self.world.step(self.actor)
        found = self._find(pod)
        if not found.terminating:
            self.world.spawn(self.world.end_of(found))


class SimRollouts:
    def __init__(self, world: World, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def annotate(self, target: Target) -> None:
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
    def __init__(self, world: World, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def write(self, attempt: Attempt) -> None:
        await self.world.step(self.actor)
        self.world.rows[attempt.request] = attempt


class SimClock:
    def __init__(self, world: World, actor: Actor) -> None:
        self.world, self.actor = world, actor

    def now(self) -> float:
        return self.world.clock

    def timestamp(self) -> str:
        return f"2026-01-01T00:00:00Z+{self.world.clock:.3f}"

    async def sleep(self, seconds: float) -> None:
        await self.world.step(self.actor, seconds)
