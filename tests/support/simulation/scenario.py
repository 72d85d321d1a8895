"""One seeded scenario: a cluster, Jobs with retries, a reconciler, and faults."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fraudops.promotion.attempt import Act, Strategy
from fraudops.promotion.changes import changes_schema
from fraudops.promotion.protocol import Promoter
from tests.support.simulation.checks import Checks
from tests.support.simulation.choices import Choices
from tests.support.simulation.cluster import SimCluster
from tests.support.simulation.endings import Endings
from tests.support.simulation.founding import found, model_of
from tests.support.simulation.jobs import Job, JobRunner, MakePromoter
from tests.support.simulation.loop import SimulatedLoop
from tests.support.simulation.registry import SimRegistry
from tests.support.simulation.store import SimStore
from tests.support.simulation.weather import Weather, odds_of
from tests.support.simulation.world import PRODUCT, Actor, Rules, SimulatedWorld, Violation

Play = Callable[[], Coroutine[Any, Any, None]]
MOST_JOBS = 4
VERSIONS = ("1", "2", "3", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
STRATEGIES: tuple[Strategy, ...] = ("broadcast", "broadcast", "broadcast", "rollout")
GOOD = ("1", "2", "3")


def build_world(
    choices: Choices, rules: Rules = PRODUCT, odds: Mapping[str, float] | None = None
) -> SimulatedWorld:
    """Return an empty world with all its parts."""
    world = SimulatedWorld(choices, rules, odds or {})
    world.store, world.registry = SimStore(world), SimRegistry(world)
    world.cluster, world.checks = SimCluster(world), Checks(world)
    return world


class Scenario:
    """The scenario of a seed. `without` leaves out events, for the shrinking.

    `odds` overrides the probability of some kinds of weather.
    """

    def __init__(
        self,
        seed: int,
        rules: Rules = PRODUCT,
        promoter: MakePromoter = Promoter,
        odds: Mapping[str, float] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        choices = Choices(seed, without)
        self.world = build_world(choices, rules, odds_of(choices, dict(odds or {})))
        self.runner = JobRunner(self.world, promoter)
        self.endings = Endings(self.world, self.runner)
        self.jobs: list[Job] = []

    def run(self) -> SimulatedWorld:
        """Run the scenario and return its world. Raises Violation."""
        return run_in_virtual_time(self.world, self._play)

    async def _play(self) -> None:
        world = self.world
        found(world)
        for number in range(MOST_JOBS):
            if job := self._job(number):
                self.jobs.append(job)
        running = [world.spawn(self.runner.run(job)) for job in self.jobs]
        world.spawn(world.cluster.control())
        faults = world.spawn(Weather(world).blow())
        reconciler = world.spawn(self.runner.reconcile_for_ever())
        while not all(task.done() for task in running):
            await world.step(None, 1.0, "scenario")
            world.raise_failures()
        faults.cancel()
        reconciler.cancel()
        await self._settle()

    def _job(self, number: int) -> Job | None:
        choices, name = self.world.choices, f"job-{number}"
        if not choices.happens("a request", name, 1.0 if number == 0 else 0.6):
            return None
        versions = VERSIONS
        asked = tuple(job.version for job in self.jobs if job.version)
        # Requests often ask for a version that another one has asked for.
        if asked and choices.number("asks again", name) < 0.4:
            versions = asked
        act: Act = "rollback" if choices.number("act", name) < 0.35 else "promote"
        return Job(
            name,
            version=choices.pick(versions, "version", name) if act == "promote" else "",
            act=act,
            strategy=choices.pick(STRATEGIES, "strategy", name),
            force=choices.happens("--force", name, 0.25) and act == "promote",
            if_epoch=2 if choices.happens("--if-epoch", name, 0.1) else None,
        )

    async def _settle(self) -> None:
        """End the faults, let the reconciler run, and check that everything agrees."""
        world = self.world
        world.calm = True
        world.note("the weather is calm from here on")
        # Longer than the life of a late message, and than a dead holder's Lease.
        await world.step(None, 45, "scenario")
        await self.runner.reconcile(Actor("last reconciler"))
        await world.step(None, 60, "scenario")
        await self.runner.reconcile(Actor("very last reconciler"))
        await world.step(None, 5, "scenario")
        world.raise_failures()
        self.endings.check(self.jobs)
        await self._act_in_calm()

    async def _act_in_calm(self) -> None:
        """Check that a promotion and the way back work, whatever the earlier acts have left."""
        world = self.world
        for pod in world.cluster.pods:
            pod.slow, pod.refuses = 0.0, frozenset()
        served = world.store.record.current
        good = [version for version in GOOD if version in world.registry.versions]
        version = next((one for one in good if served is None or one != served.version), None)
        if version is None:
            return
        other = changes_schema(world.store.record, model_of(version))
        await self._must_work(
            Job("calm", version=version, force=True, strategy="rollout" if other else "broadcast")
        )
        if served and self._can_go_back(served.version):
            await self._must_work(Job("calm-back", act="rollback"))
            if not served.is_same_model(world.store.record.current):
                raise Violation("the way back", f"a rollback did not serve {served.version} again")

    def _can_go_back(self, version: str) -> bool:
        """Whether a new pod of a rollout could load the version, too."""
        return version in self.world.registry.versions

    async def _must_work(self, job: Job) -> None:
        await self.runner.attempt(job, Actor(job.id, job))
        self.world.raise_failures()
        result = self.runner.results.get(job.id)
        lost = {pod.name for pod in self.world.cluster.pods if pod.lost}
        excused = result and result.outcome == "unconfirmed" and set(result.behind) <= lost
        if result is None or not (result.outcome in ("done", "unchanged") or excused):
            raise Violation("calm acts work", f"without faults, {job.id} ended as {result}")
        await self.world.step(None, 20, "scenario")
        self.endings.check_pods()


def run_in_virtual_time(world: SimulatedWorld, play: Play) -> SimulatedWorld:
    """Run a coroutine of the world on a loop with virtual time. Raises what it raises."""
    with asyncio.Runner(
        loop_factory=lambda: SimulatedLoop(world.advance, lambda: world.clock)
    ) as runner:
        runner.run(_play_and_clean(world, play))
    return world


async def _play_and_clean(world: SimulatedWorld, play: Play) -> None:
    try:
        await play()
    finally:
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
