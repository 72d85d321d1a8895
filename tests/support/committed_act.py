"""A promotion just after its commit, with pods as a test describes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import msgspec

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.ports import Clock, PodRef, PodRefusedError, PodUnresponsiveError
from fraudops.promotion.serving_record import keep_outcome
from tests.support.simulation.founding import entry_of
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage
from tests.support.simulation.world import Actor

SILENT, REFUSED = PodUnresponsiveError("no answer"), PodRefusedError("it cannot")
DOWN = StoreDownError("the API is down")
REQUEST = "founder-3"


def ready(name: str) -> PodRef:
    return PodRef(name, ready=True)


def unready(name: str) -> PodRef:
    return PodRef(name, ready=False)


def ending(name: str, lost: str | None = None) -> PodRef:
    return PodRef(name, ready=True, terminating=True, lost=lost)


@dataclass
class ScriptedPods:
    """Pods as a test describes them.

    `silent` has the time until which each pod fails its calls with `error`. `reaches` has the
    epoch that a pod answers with, if that is not the epoch that it was asked for. `on_call`
    happens after the first call of `activate`.
    """

    clock: Clock
    listed: Sequence[PodRef]
    silent: dict[str, float] = field(default_factory=dict)
    reaches: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    error: Exception = SILENT
    wanted: int = 1
    lists: list[Exception] = field(default_factory=list)
    deletion: FraudopsError | None = None
    goes_after: float = 1.0
    on_call: Callable[[], None] | None = None
    on_epoch: Callable[[], None] | None = None
    calls: list[tuple[str, int, float]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    gone: dict[str, float] = field(default_factory=dict)

    async def list(self) -> Sequence[PodRef]:
        await self.clock.sleep(0)
        if self.lists:
            raise self.lists.pop(0)
        now = self.clock.now()
        return [pod for pod in self.listed if now < self.gone.get(pod.name, FOR_EVER)]

    async def desired_replicas(self) -> int:
        await self.clock.sleep(0)
        return self.wanted

    async def epoch(self, pod: PodRef) -> int:
        if self.on_epoch:
            self.on_epoch()
        return self.epochs.get(pod.name, 0)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        self.calls.append((pod.name, epoch, seconds))
        await self.clock.sleep(0)
        if self.on_call:
            self.on_call()
            self.on_call = None
        if self.clock.now() < self.silent.get(pod.name, 0.0):
            raise self.error
        return self.reaches.get(pod.name, epoch)

    async def delete(self, pod: PodRef) -> None:
        self.deleted.append(pod.name)
        if self.deletion:
            raise self.deletion
        self.gone[pod.name] = self.clock.now() + self.goes_after


class Act:
    """The promotion of version 3 as epoch 3, just committed. Version 1 served before."""

    def __init__(self, stage: Stage, *listed: PodRef, **script: Any) -> None:
        self.stage, self.said = stage, list[str]()
        # The checks of whole acts do not apply: this one begins after its commit.
        stage.world.checks.commits = SimpleNamespace(on_commit=lambda *_: None)
        before = stage.record.current
        assert before is not None
        self.attempt = Attempt(
            request=REQUEST, requested_by="user", at="then", version="3", epoch=3, outcome="done"
        )
        unreported = msgspec.structs.replace(self.attempt, outcome="unconfirmed")
        record = msgspec.structs.replace(
            stage.record,
            current=entry_of("3", 3),
            previous=before,
            stack=(before, *stage.record.stack),
            highest_reserved=3,
        )
        stage.write(keep_outcome(record, unreported))
        calm = ports_of(stage.world, Actor("act"))
        self.pods = ScriptedPods(calm.clock, listed, **script)
        self.ports = replace(calm, pods=self.pods, say=self.said.append)
        self.convergence = Convergence(self.ports)
        self.began = stage.world.clock

    def change(self, **fields: Any) -> None:
        """Let another process change fields of the record."""
        self.stage.change(**fields)

    def at_next_epoch(self, then: Callable[[], None]) -> None:
        """Run `then` when a pod is next asked for its epoch, and only then."""

        def run() -> None:
            self.pods.on_epoch = None
            then()

        self.pods.on_epoch = run

    def overtake(self) -> None:
        """Let another act promote version 2 as epoch 4."""
        current, stack = self.stage.record.current, self.stage.record.stack
        assert current is not None
        self.change(current=entry_of("2", 4), previous=current, stack=(current, *stack))

    async def finish(self) -> Ending:
        async with self.ports.lock.hold(REQUEST):
            self.began = self.stage.world.clock
            return await self.convergence.finish(self.attempt, self.stage.record)

    async def look(self) -> Ending:
        return await self.convergence.look(self.attempt, self.stage.record)

    @property
    def taken(self) -> float:
        return self.stage.world.clock - self.began

    def called(self, name: str) -> int:
        return [pod for pod, _, _ in self.pods.calls].count(name)


def outcome(ending: Ending) -> tuple[str, tuple[str, ...]]:
    return ending.attempt.outcome, ending.attempt.behind


def for_ever(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, FOR_EVER)
