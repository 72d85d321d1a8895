"""Requests as Kubernetes Jobs run them: up to four processes with one request id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fraudops.errors import FraudopsError
from fraudops.promotion.admission import Nominee, SealedFacts, Trust, admit, go_back
from fraudops.promotion.attempt import Act, Strategy
from fraudops.promotion.changes import Promote, Rollback
from fraudops.promotion.ports import Deadlines, PromotionPorts
from fraudops.promotion.protocol import Promoter, PromotionRequest, PromotionResult
from fraudops.promotion.reconcile import Reconciler
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import ModelVersion
from fraudops.signing.credentials import Credentials, PromotionTerms
from fraudops.signing.verdicts import Verdict
from tests.support.signing import SIGNERS
from tests.support.simulation.admin import SimPods
from tests.support.simulation.network import get
from tests.support.simulation.registry import KINDS, MLFLOW, SimAliases, signed_verdict_of
from tests.support.simulation.store import SimClock, SimJournal, SimLock, SimRecords, SimRollouts
from tests.support.simulation.world import Actor, SimulatedWorld

TRIES = 4
DEADLINES = Deadlines(prepare=20, activate=20, retry=30, rollout=60)
RETRY = 75
WHY = {"reason": "the user insists"}
NOW, LATER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
KEYS = SIGNERS.public
MakePromoter = Callable[[PromotionPorts], Promoter]


@dataclass(frozen=True)
class Job:
    """One request of a user. `force` waives the gates; `if_epoch` is the user's condition."""

    id: str
    version: str = ""
    act: Act = "promote"
    strategy: Strategy = "broadcast"
    force: bool = False
    if_epoch: int | None = None


@dataclass(frozen=True)
class FailedComparison:
    name: str = "auc"
    passed: bool = False
    detail: str = "worse than what serves"


class Gate:
    """The product's gate over the simulated registry, as the command calls it."""

    def __init__(self, world: SimulatedWorld, actor: Actor, job: Job) -> None:
        self.world, self.actor, self.job = world, actor, job

    async def decide(self, record: ServingRecord) -> Promote | Rollback:
        """Return the act for the record. It may take long, and may even block the loop."""
        world = self.world
        world.checks.on_decision(self.actor, record)
        if world.happens("blocking gate", self.actor.name):
            seconds = world.choices.between(5, 60, "blocking", self.actor.name)
            world.block(self.actor, seconds, "blocks its loop in the gate")
        elif world.happens("long gate", self.actor.name):
            seconds = world.choices.between(5, 40, "long", self.actor.name)
            self.actor.delayed += seconds
            await world.step(self.actor, seconds)
        await world.step(self.actor)
        if self.job.act == "rollback":
            return go_back(record, KEYS)
        version = await get(
            world,
            self.actor,
            lambda: world.registry.find(self.job.version),
            world.registry.down_until,
            MLFLOW,
        )
        credentials = Credentials(
            signed_verdict=signed_verdict_of(version.version), signed_waiver=self._waiver(version)
        )
        facts = SealedFacts(KINDS[version.version].schema, sample=False)
        return admit(
            Nominee(version, credentials, lambda: facts),
            record,
            self.job.strategy,
            self._recompare(record),
            Trust(KEYS, PromotionTerms("fraud", self.job.id, NOW, waivers_allowed=True)),
        )

    def _waiver(self, version: ModelVersion) -> str | None:
        """Return a waiver for this act, or one that an earlier act has used."""
        used = self.world.registry.used_waivers
        if self.job.force:
            digest, act = str(version.digest), {"request": self.job.id, "who": self.job.id}
            signed = SIGNERS.waiver_for(version.version, digest, expires_at=LATER, **WHY, **act)
            used[version.version] = signed
            return signed
        if version.version in used and self.world.happens("replayed waiver", self.actor.name):
            return used[version.version]
        return None

    def _recompare(
        self, record: ServingRecord
    ) -> Callable[[ModelVersion, Verdict], Sequence[FailedComparison]]:
        serving = record.current.version if record.current else ""

        def compare(version: ModelVersion, _: Verdict) -> Sequence[FailedComparison]:
            worse = serving in KINDS[version.version].worse_than
            return [FailedComparison()] if worse else []

        return compare


def ports_of(world: SimulatedWorld, actor: Actor, wait_seconds: float = 300.0) -> PromotionPorts:
    return PromotionPorts(
        records=SimRecords(world, actor),
        lock=SimLock(world, actor, wait_seconds),
        aliases=SimAliases(world, actor),
        pods=SimPods(world, actor),
        journal=SimJournal(world, actor),
        clock=SimClock(world, actor),
        rollouts=SimRollouts(world, actor),
        deadlines=DEADLINES,
        say=lambda text: world.note(f"{actor.name}: {text}"),
    )


class JobRunner:
    """Runs Jobs and the reconciler in the world, with the promoter that a test wants."""

    def __init__(self, world: SimulatedWorld, promoter: MakePromoter = Promoter) -> None:
        self.world, self.promoter = world, promoter
        self.results: dict[str, PromotionResult] = {}

    async def run(self, job: Job) -> None:
        """Run the tries of the Job. A process that dies or ends with 75 is followed by another."""
        world = self.world
        await world.step(None, world.choices.between(0, 40, "begin", job.id), job.id)
        for number in range(TRIES):
            dies = number < TRIES - 1
            actor = self.actor(f"{job.id}/{number}", job, dies)
            attempt = world.spawn(self.attempt(job, actor))
            lost = dies and world.happens("a lost process lives", actor.name)
            while not attempt.done() and actor.alive:
                # Kubernetes replaces the pod of a node that does not answer.
                if lost and actor.paused_until > world.clock + 20:
                    world.checks.doubled.add(job.id)
                    break
                await world.step(None, 1.0, job.id)
            if attempt.done() and actor.alive and attempt.result() != RETRY:
                return
            await world.step(None, world.choices.between(0, 20, "back-off", actor.name), job.id)

    def actor(self, name: str, job: Job | None, dies: bool = True) -> Actor:
        world = self.world
        actor = Actor(name, job)
        if world.happens("skewed clock", name):
            actor.rate = world.choices.between(0.9, 1.1, "rate", name)
            actor.offset = world.choices.between(-500, 500, "offset", name)
        if dies and world.happens("will be killed", name):
            actor.kill_at = 1 + int(_late(world, "kill", name))
        if world.happens("will be paused", name):
            actor.pause_at = 1 + int(_late(world, "pause", name))
            actor.pause_seconds = world.choices.between(1, 90, "pause for", name)
        return actor

    async def attempt(self, job: Job, actor: Actor) -> int:
        """Run one process of the Job, and return its exit code."""
        world = self.world
        gate = Gate(world, actor, job)
        request = PromotionRequest(
            id=job.id,
            requested_by="user",
            decide=gate.decide,
            act=job.act,
            version=job.version,
            strategy=job.strategy,
            if_epoch=job.if_epoch,
        )
        world.checks.on_try(job)
        try:
            result = await self.promoter(ports_of(world, actor)).run(request)
        except FraudopsError as error:
            world.note(f"{actor.name} ends with exit code {error.exit_code}: {error}")
            world.checks.on_error(actor, error)
            return error.exit_code
        said = f": {result.reason}" if result.reason else ""
        world.note(f"{actor.name} ends as {result.outcome} at epoch {result.epoch}{said}")
        self.results[job.id] = result
        world.checks.on_result(actor, result)
        return RETRY if result.outcome == "unconfirmed" else 0

    async def reconcile(self, actor: Actor) -> None:
        """Run the product's reconciler once."""
        ports = ports_of(self.world, actor, wait_seconds=40.0)
        try:
            await Reconciler(ports, self.promoter(ports)).run(actor.name)
        except FraudopsError as error:
            self.world.note(f"{actor.name}: {error}")
            self.world.checks.on_error(actor, error)

    async def reconcile_for_ever(self) -> None:
        number = 0
        while True:
            await self.world.step(None, 20.0, "reconciler")
            number += 1
            actor = self.actor(f"reconciler/{number}", None)
            run = self.world.spawn(self.reconcile(actor))
            while not run.done() and actor.alive:
                await self.world.step(None, 1.0, "reconciler")


def _late(world: SimulatedWorld, what: str, who: str) -> float:
    """Return a number of steps: mostly few, sometimes as many as a long act has."""
    most = world.choices.pick((15, 40, 90, 200), what, who)
    return most * world.choices.number(what, who)
