"""A calm simulated cluster for hand-written scenarios."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from fraudops.promotion.attempt import Attempt, Strategy
from fraudops.promotion.protocol import PromotionResult
from fraudops.promotion.serving_record import ServingRecord, encode
from tests.support.simulation.choices import Choices
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.founding import entry_of, record_of_0_2_0, run
from tests.support.simulation.jobs import Job, JobRunner
from tests.support.simulation.scenario import build_world, run_in_virtual_time
from tests.support.simulation.world import Actor

FOR_EVER = float("inf")
Play = Callable[["Stage"], Coroutine[Any, Any, None]]


class Stage:
    """Pods that serve version 1 (epoch 2). The way back is version 2 (epoch 1)."""

    def __init__(self, pods: int = 4, stack: tuple[str, ...] = ("2",)) -> None:
        self.world = build_world(Choices(seed=1))
        self.runner = JobRunner(self.world)
        self._acts = 0
        epoch = len(stack) + 1
        entries = tuple(entry_of(version, epoch - 1 - n) for n, version in enumerate(stack))
        record = ServingRecord(
            current=entry_of("1", epoch),
            previous=entries[0] if entries else None,
            stack=entries,
            alias_epoch=epoch,
        )
        self.world.store.start_from(encode(record))
        self.world.checks.commits.founded(record)
        self.world.registry.aliases = {"production": "1", "champion": stack[0]}
        self.world.cluster.replicas = pods

    async def play(self, play: Play) -> None:
        current = self.world.store.record.current
        assert current is not None
        for _ in range(self.world.cluster.replicas):
            run(self.world, self.world.cluster.create().name, current.target)
        self.world.spawn(self.world.cluster.control())
        await play(self)
        await self.wait(1.0)
        self.world.raise_failures()

    # -- the acts of users

    async def promote(
        self, version: str, strategy: Strategy = "broadcast", force: bool = False
    ) -> PromotionResult:
        return await self.act(Job(self._id(), version=version, strategy=strategy, force=force))

    async def roll_back(self) -> PromotionResult:
        return await self.act(Job(self._id(), act="rollback"))

    async def act(self, job: Job, actor: Actor | None = None) -> PromotionResult:
        """Run one process of the job. It must end with a result."""
        await self.runner.attempt(job, actor or Actor(f"{job.id}/0", job))
        self.world.raise_failures()
        return self.runner.results[job.id]

    async def reconcile(self) -> None:
        await self.runner.reconcile(Actor("reconciler"))

    def start_from_0_2_0(self) -> None:
        """Begin with a record of release 0.2.0, whose last act has no row of its outcome yet."""
        self.world.store.start_from(record_of_0_2_0(self.world, "0.2.0"))

    async def wait(self, seconds: float) -> None:
        await self.world.step(None, seconds, "stage")

    def _id(self) -> str:
        self._acts += 1
        return f"act-{self._acts}"

    # -- what a scenario looks at and changes

    def pod(self, name: str) -> SimPod:
        return self.world.cluster.find(name)

    def silence(self, *names: str, seconds: float = FOR_EVER) -> None:
        """Let pods neither answer calls nor read the record."""
        for name in names:
            self.pod(name).silent_until = self.world.clock + seconds

    def make_unready(self, *names: str) -> None:
        for name in names:
            self.pod(name).shown_ready = False

    def write(self, record: ServingRecord) -> None:
        """Let another process write the record, as if it had read it just before."""
        self.world.store.overwrite(record)

    def change(self, **fields: Any) -> None:
        """Let another process change fields of the record."""
        self.write(msgspec.structs.replace(self.record, **fields))

    @property
    def record(self) -> ServingRecord:
        return self.world.store.record

    @property
    def serving(self) -> tuple[str, int]:
        """The version that the record names, and its epoch."""
        assert self.record.current is not None
        return self.record.current.version, self.record.epoch

    @property
    def way_back(self) -> list[str]:
        return [entry.version for entry in self.record.stack]

    def row(self, request: str) -> Attempt:
        return self.world.store.rows[request]


def on_stage(
    pods: int = 4, stack: tuple[str, ...] = ("2",)
) -> Callable[[Play], Callable[[], None]]:
    """Run a coroutine as a test in virtual time."""

    def decorate(play: Play) -> Callable[[], None]:
        def test() -> None:
            stage = Stage(pods, stack)
            run_in_virtual_time(stage.world, lambda: stage.play(play))

        test.__name__, test.__doc__ = play.__name__, play.__doc__
        return test

    return decorate
