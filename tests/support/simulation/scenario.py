"""One seeded scenario: a cluster, promotion Jobs with retries, and random faults.

At the end the scenario checks that everything agrees.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.convergence import PromotionResult
from fraudops.promotion.ports import Deadlines, PromotionCandidate, PromotionPorts
from fraudops.promotion.protocol import Promoter, PromotionRequest
from fraudops.promotion.reconcile import reconcile
from fraudops.promotion.serving_record import ServingEntry, ServingRecord, Strategy
from tests.support.simulation.loop import SimulatedLoop
from tests.support.simulation.ports import (
    SimAliases,
    SimClock,
    SimJournal,
    SimLock,
    SimPods,
    SimRecords,
    SimRollouts,
)
from tests.support.simulation.world import Actor, Rules, SimulatedWorld, Violation

VERSIONS = {"1": "A", "2": "B", "3": "C"}
TRIES = 4
STRATEGIES: tuple[Strategy, ...] = ("broadcast", "broadcast", "broadcast", "rollout")
PRODUCT = Rules()


@dataclass(frozen=True)
class Job:
    """One request as a Kubernetes Job runs it: up to TRIES processes with one id."""

    id: str
    version: str
    rollback: bool = False
    strategy: Strategy = "broadcast"


def choose(job: Job) -> Callable[[ServingRecord], Awaitable[PromotionCandidate]]:
    async def gate(record: ServingRecord) -> PromotionCandidate:
        if job.rollback:
            if not record.stack:
                raise RefusedError("no version to roll back to")
            entry = record.stack[0]
            return PromotionCandidate(
                entry.version, entry.digest, entry.schema_fingerprint, entry.verdict, entry.waiver
            )
        if job.version not in VERSIONS:
            raise RefusedError("no verdict")
        digest = VERSIONS[job.version]
        return PromotionCandidate(job.version, digest, "schema", {"digest": digest, "passed": True})

    return gate


class Scenario:
    def __init__(
        self,
        seed: int,
        rules: Rules = PRODUCT,
        promoter: Callable[[PromotionPorts], Promoter] = Promoter,
        strategies: tuple[Strategy, ...] = STRATEGIES,
    ) -> None:
        self.world, self.strategies = SimulatedWorld(seed, rules), strategies
        self.promoter = promoter
        self.results: dict[str, PromotionResult] = {}
        self.failure: BaseException | None = None

    def run(self) -> SimulatedWorld:
        """Run the scenario and return its world. Raises Violation with the seed's trace."""
        world = self.world
        with asyncio.Runner(
            loop_factory=lambda: SimulatedLoop(self._idle, lambda: world.clock)
        ) as runner:
            try:
                runner.run(self._run())
            except Violation as violation:
                raise Violation(f"{violation}\n" + "\n".join(world.trace[-60:])) from None
        return world

    def _idle(self) -> None:
        if self.failure is None:
            try:
                self.world.advance()
            except Violation as violation:
                self.failure = violation
        if self.failure is not None:
            self.main.cancel()

    async def _run(self) -> None:
        main = asyncio.current_task()
        assert main is not None
        self.main = main
        try:
            await self._play()
        except asyncio.CancelledError:
            main.uncancel()
        for task in self.world.tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self.world.tasks, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if self.failure or errors:
            raise self.failure or errors[0]

    # -- the run

    async def _play(self) -> None:
        world, chance = self.world, self.world.random
        self._create_cluster()
        jobs = [self._job(number) for number in range(chance.randint(1, 3))]
        running = [world.spawn(self._run_job(job)) for job in jobs]
        world.spawn(world.control())
        faults = world.spawn(self._faults())
        while not all(task.done() for task in running):
            await world.step(seconds=1.0)
            self._raise_failures(running)
        faults.cancel()
        await self._settle()

    def _raise_failures(self, tasks: list[Any]) -> None:
        for task in [*tasks, *self.world.tasks]:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception()

    def _job(self, number: int) -> Job:
        chance = self.world.random
        if chance.random() < 0.3:
            return Job(f"job-{number}", "", rollback=True, strategy=chance.choice(self.strategies))
        return Job(
            f"job-{number}",
            chance.choice(["1", "2", "3", "3", "2", "unjudged"]),
            strategy=chance.choice(self.strategies),
        )

    def _create_cluster(self) -> None:
        world, chance = self.world, self.world.random
        world.replicas = chance.randint(1, 5)
        if chance.random() < 0.85:
            passed = {"passed": True}
            older = ServingEntry(
                epoch=1,
                version="2",
                digest="B",
                schema_fingerprint="schema",
                by="before",
                at="",
                verdict=passed,
            )
            entry = ServingEntry(
                epoch=2,
                version="1",
                digest="A",
                schema_fingerprint="schema",
                by="founding",
                at="",
                verdict=passed,
            )
            world.record = ServingRecord(
                current=entry, previous=older, stack=(older,), alias_epoch=2
            )
            world.commits += [(1, "B"), (2, "A")]
            world.aliases = {"production": "1", "champion": "2"}
            # The record was restored from a backup: the pods serve a later epoch than it names.
            world.restored = chance.random() < 0.08
            world.commits += [(7, "B")] if world.restored else []
        for _ in range(world.replicas):
            pod = world.start_pod(
                slow=chance.choice([0, 0, 0.5, 6]),
                refuses=frozenset({"C"}) if chance.random() < 0.06 else frozenset(),
            )
            if world.record.current:
                pod.up = pod.ready = True
                pod.epoch, pod.digest = 2, "A"
                if world.restored:
                    pod.epoch, pod.digest = 7, "B"

    async def _run_job(self, job: Job) -> None:
        world, chance = self.world, self.world.random
        await world.step(seconds=chance.random() * 30)
        for number in range(TRIES):
            actor = Actor(f"{job.id}/{number}")
            if world.chance(0.4) and number < TRIES - 1:
                actor.kill_at = chance.choice([15, 60, 150]) - chance.randint(0, 14)
            if world.chance(0.3):
                actor.pause_at, actor.pause_seconds = (
                    chance.choice([15, 30, 60, 90]) - chance.randint(0, 14),
                    chance.random() * 90,
                )
            attempt = world.spawn(self._try(job, actor))
            while not attempt.done() and actor.alive:
                await world.step(seconds=1.0)
            if actor.alive and attempt.result() is not None:
                return
            await world.step(seconds=chance.random() * 20)

    async def _try(self, job: Job, actor: Actor) -> PromotionResult | None:
        """Run one process of a job.

        Returns None if it ended with an exit code after which the Job tries again.
        """
        world = self.world
        request = PromotionRequest(
            id=job.id,
            requested_by="simulation",
            choose=choose(job),
            version=job.version,
            strategy=job.strategy,
            rollback=job.rollback,
        )
        try:
            result = await self._promoter(actor).run(request)
        except StoreDownError as error:
            world.note(f"{actor.name}: {error}")
            return None
        world.note(f"{actor.name} ends {result.outcome} epoch {result.epoch}: {result.reason}")
        self.results[job.id] = result
        committed = any(
            entry and entry.by == job.id for entry in (world.record.current, *world.record.stack)
        )
        if result.outcome in ("done", "unchanged") and result.version is not None:
            world.promised = (result.epoch, dict(world.commits)[result.epoch])
            world.check_promise()
        elif result.outcome == "refused" and committed:
            raise Violation(f"{job.id} was refused after it committed")
        return result if result.outcome != "unconfirmed" else None

    def _promoter(self, actor: Actor) -> Promoter:
        world = self.world
        ports = PromotionPorts(
            records=SimRecords(world, actor),
            lock=SimLock(world, actor),
            aliases=SimAliases(world, actor),
            pods=SimPods(world, actor),
            journal=SimJournal(world, actor),
            clock=SimClock(world, actor),
            rollouts=SimRollouts(world, actor),
            deadlines=Deadlines(prepare=20, activate=20, retry=30, rollout=90),
            say=lambda text: world.note(f"{actor.name}: {text}"),
        )
        return self.promoter(ports)

    async def _faults(self) -> None:
        world, chance = self.world, self.world.random
        while not world.calm:
            await world.step(seconds=chance.random() * 12)
            living = [pod for pod in world.pods if not pod.gone and not pod.terminating]
            draw = chance.random()
            if draw < 0.2 and living:
                world.spawn(world.end_of(chance.choice(living)))
            elif draw < 0.35:
                world.replicas = max(1, min(6, world.replicas + chance.choice([-1, 1, 1])))
            elif draw < 0.45 and living:
                chance.choice(living).silent_until = world.clock + chance.random() * 60
            elif draw < 0.5:
                for pod in living:
                    pod.silent_until = world.clock + chance.random() * 40
            elif draw < 0.55:
                world.registry_down_until = world.clock + chance.random() * 30

    # -- the end

    async def _settle(self) -> None:
        """End the faults, and check that record, registry and pods agree.

        All promoters have finished or are dead.
        """
        world = self.world
        world.calm, world.registry_down_until = True, 0.0
        for pod in world.pods:
            pod.silent_until = 0.0
        # Longer than a lease: a dead promoter's lock is free after it.
        await world.step(seconds=40)
        await self._reconcile()
        await world.step(seconds=90)
        self._check_agreement()
        await self._promote_in_calm()

    async def _reconcile(self) -> None:
        world, actor = self.world, Actor("reconciler")
        async with SimLock(world, actor).hold("reconciler"):
            await self._promoter(actor).undo_unfinished_rollout(world.record, world.token)
            findings = await reconcile(SimRecords(world, actor), SimAliases(world, actor))
        current = world.record.current
        if current and (world.aliases.get("production") != current.version or findings.alias):
            raise Violation(
                f"the alias says {world.aliases.get('production')}, the record {current.version}"
            )

    def _check_agreement(self) -> None:
        self._raise_failures([])
        world, current = self.world, self.world.record.current
        for pod in world.pods:
            if (
                current is None
                or pod.gone
                or pod.terminating
                or current.digest in pod.refuses
                or pod.started_at > world.clock - 10
            ):
                continue
            if not pod.ready:
                raise Violation(f"{pod.name} stays unready while the record names {current.digest}")
            restored_and_reported = world.restored and pod.epoch > current.epoch
            if (pod.epoch, pod.digest) != (
                current.epoch,
                current.digest,
            ) and not restored_and_reported:
                raise Violation(
                    f"{pod.name} is at {pod.digest} epoch {pod.epoch},"
                    f" the record at {current.digest} epoch {current.epoch}"
                )

    async def _promote_in_calm(self) -> None:
        """Check that a promotion without faults succeeds, whatever the earlier ones left."""
        world = self.world
        for pod in world.pods:
            pod.slow, pod.refuses = 0.0, frozenset()
        result = await self._try(Job("calm", "2"), Actor("calm/0"))
        if result is None or result.outcome not in ("done", "unchanged"):
            raise Violation(f"without faults a promotion ended {result}")
        await world.step(seconds=10)
        self._check_agreement()
