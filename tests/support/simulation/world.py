"""A cluster of fake pods, one record, one registry and one lease.

Messages are lost. Pods are slow, refuse, die and start. Promoters are killed and paused.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from fraudops.promotion.ports import Attempt
from fraudops.promotion.serving_record import EMPTY, ServingRecord, ServingTarget, target_of

LEASE_SECONDS = 15.0
POLL_SECONDS = 2.0


class Violation(AssertionError):
    """A rule that must always hold was broken."""


@dataclass(frozen=True)
class Rules:
    """The pods' rules of the promotion protocol, each of which can be switched off."""

    refuse_lower_epochs: bool = True
    pods_poll: bool = True
    gone_means_gone: bool = True
    list_all: bool = True
    annotation_needs_the_record: bool = True


@dataclass
class Actor:
    """A promoter's process.

    If it is killed at a step, it never runs again. If it is paused at a step, its steps wait.
    """

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
    started_at: float = 0.0


class SimulatedWorld:
    """Time, random choices and state of one seed."""

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
        self.pods_started = 0
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

    # -- time and random choices

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock:8.2f} {text}")

    def chance(self, probability: float) -> bool:
        return not self.calm and self.random.random() < probability

    def advance(self) -> None:
        """Resolve one random step among those that are due; if none is due, move the clock."""
        runnable = [
            w for w in self.waiting if not w.future.done() and (w.actor is None or w.actor.alive)
        ]
        if not runnable:
            raise RuntimeError(
                "the world has stopped: nothing waits\n" + "\n".join(self.trace[-20:])
            )

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
        """Wait for at least `seconds`; anything else may happen before it returns."""
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
        """Check that every answering pod still serves the last successful promotion.

        The promise ends with the next commit or the next reservation by rollout.
        """
        if self.promised and self.record.reserved and self.record.reserved.strategy == "rollout":
            self.promised = None
        if self.promised is None or self.promised[0] != self.record.epoch:
            return
        for pod in self.pods:
            if pod.ready and not pod.gone and pod.digest != self.promised[1]:
                epoch, digest = self.promised
                raise Violation(
                    f"{pod.name} answers with {pod.digest} after {digest} was promised"
                    f" (epoch {epoch})"
                )

    def serve(self, pod: SimPod, epoch: int, digest: str) -> None:
        if epoch < pod.epoch:
            raise Violation(f"{pod.name} went from epoch {pod.epoch} back to {epoch}")
        if epoch == pod.epoch and digest != pod.digest:
            raise Violation(f"{pod.name} changed its version within epoch {epoch}")
        if (epoch, digest) not in self.commits and (epoch, digest) not in self.annotated:
            raise Violation(
                f"{pod.name} serves {digest} at epoch {epoch}, which was never committed"
            )
        pod.epoch, pod.digest = epoch, digest
        self.note(f"{pod.name} serves {digest} epoch {epoch}")

    # -- pods

    def start_pod(self, **traits: Any) -> SimPod:
        self.pods_started += 1
        pod = SimPod(
            f"pod-{self.pods_started}", template=self.template, started_at=self.clock, **traits
        )
        self.pods.append(pod)
        self.note(f"{pod.name} starts")
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
        """Read the record and serve its entry; anything may happen between the two."""
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
        """Serve the template's target if the record reserves or has committed exactly it.

        A pod that cannot load that target takes the record's.
        """
        if pod.template is None or pod.template[1] in pod.refuses:
            return
        target = target_of(self.record, ServingTarget(pod.template[0], "", pod.template[1]))
        obeyed = target is not None and (target.epoch, target.digest) == pod.template
        if obeyed or not self.rules.annotation_needs_the_record:
            self.serve(pod, *pod.template)

    async def control(self) -> None:
        """Act as the Deployment's controller, with a surge of one pod and none unavailable.

        Pods of old templates are replaced by pods of the present one.
        """
        while True:
            await self.step(seconds=1.0)
            living = [pod for pod in self.pods if not pod.gone and not pod.terminating]
            old = [pod for pod in living if pod.template != self.template]
            if len(living) < self.replicas or (old and len(living) == self.replicas):
                self.start_pod()
            elif old and sum(pod.ready for pod in living) > self.replicas:
                self.spawn(self.end_of(old[0]))

    def _expire(self, pod: SimPod) -> None:
        """Drop prepared bundles past their deadline, or of epochs that the record has passed."""
        kept = {
            digest: (epoch, end)
            for digest, (epoch, end) in pod.prepared.items()
            if end > self.clock and epoch >= self.record.epoch
        }
        pod.prepared = kept

    async def end_of(self, pod: SimPod) -> None:
        """End a pod gracefully.

        The pod answers while it drains, and is listed until its object is gone.
        """
        pod.terminating = True
        self.note(f"{pod.name} begins to end")
        await self.step(seconds=1 + self.random.random() * 6)
        pod.ready, pod.up, pod.gone = False, False, True
        self.note(f"{pod.name} is gone")
