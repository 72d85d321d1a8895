"""Virtual time, actors and the trace of one simulated scenario."""

import asyncio
import heapq
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fraudops.errors import FraudopsError
from tests.support.simulation.choices import Choices

if TYPE_CHECKING:
    from fraudops.promotion.ports import PodRef
    from tests.support.simulation.checks import Checks
    from tests.support.simulation.cluster import SimCluster
    from tests.support.simulation.jobs import Job
    from tests.support.simulation.registry import SimRegistry
    from tests.support.simulation.store import SimStore


class Violation(AssertionError):
    """A rule that must always hold was broken. `rule` names it for the shrinking."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(frozen=True)
class Rules:
    """Rules of the simulated parts that have no product code to switch off."""

    pods_poll: bool = True
    gone_means_gone: bool = True
    lists_all: bool = True
    only_holders_have_the_lock: bool = True
    ready_without_model: bool = False


PRODUCT = Rules()


@dataclass(eq=False)
class Actor:
    """A process with its own clock. A killed one never runs again; the steps of a paused one wait.

    `delayed` sums the seconds that faults have cost it, and `troubled` says that a store failed it.
    The other fields are what the checks
    remember of it: the last list of pods, the list that it activated, and its lock.
    """

    name: str
    job: "Job | None" = None
    rate: float = 1.0
    offset: float = 0.0
    kill_at: int | None = None
    pause_at: int | None = None
    pause_seconds: float = 0.0
    steps: int = 0
    alive: bool = True
    paused_until: float = 0.0
    delayed: float = 0.0
    troubled: bool = False
    unanswered: set[str] = field(default_factory=set)
    locked_at: float | None = None
    lock_until: float = float("-inf")
    lost_lock: bool = False
    reserved_at: float = 0.0
    reserved_epoch: int = 0
    committed: bool = False
    listed: "tuple[PodRef, ...]" = ()
    activated: "tuple[PodRef, ...]" = ()
    activated_at: float = 0.0
    confirmed: set[str] = field(default_factory=set)
    record_calls: list[float] = field(default_factory=list)

    def own_time(self, clock: float) -> float:
        return self.offset + self.rate * clock


class SimulatedWorld:
    """Time and decisions of one scenario. The scenario adds the parts that live in it."""

    store: "SimStore"
    registry: "SimRegistry"
    cluster: "SimCluster"
    checks: "Checks"

    def __init__(self, choices: Choices, rules: Rules, odds: Mapping[str, float]) -> None:
        self.choices, self.rules, self.odds = choices, rules, dict(odds)
        self.calm = False
        self.violation: Violation | None = None
        self.clock = 0.0
        self.trace: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._waiting: list[tuple[float, int, asyncio.Future[None], Actor | None]] = []
        self._dead: list[asyncio.Future[None]] = []
        self._sequence = 0

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock:7.2f} s  {text}")

    def violated(self, rule: str, text: str) -> Violation:
        """Return the violation to raise. The scenario ends with the first one."""
        self.violation = self.violation or Violation(rule, text)
        return self.violation

    def happens(self, what: str, who: str) -> bool:
        """Decide whether weather of this kind hits now."""
        if self.calm or not self.choices.happens(what, who, self.odds.get(what, 0.0)):
            return False
        self.note(f"{who}: {what}")
        return True

    def advance(self) -> None:
        """Resolve the next step that is due, and move the clock to it."""
        while self._waiting:
            due, _, future, actor = heapq.heappop(self._waiting)
            if future.done():
                continue
            if actor and not actor.alive:
                self._dead.append(future)  # Python warns of a task that nothing refers to.
                continue
            if actor and actor.paused_until > due:
                self._wait(actor.paused_until, future, actor)
                continue
            self.clock = max(self.clock, due)
            future.set_result(None)
            return
        raise RuntimeError("the world has stopped: nothing waits")

    def _wait(self, due: float, future: "asyncio.Future[None]", actor: Actor | None) -> None:
        self._sequence += 1
        heapq.heappush(self._waiting, (due, self._sequence, future, actor))

    async def step(self, actor: Actor | None, seconds: float = 0.0, who: str = "world") -> None:
        """Wait for at least `seconds`; anything else may happen before it returns."""
        if actor:
            who = actor.name
            self._count(actor)
        due = self.clock + seconds + 0.004 + self.choices.number("step", who) * 0.04
        future = asyncio.get_running_loop().create_future()
        self._wait(due, future, actor)
        await future

    def _count(self, actor: Actor) -> None:
        actor.steps += 1
        if actor.steps == actor.kill_at:
            actor.alive = False
            self.note(f"{actor.name} is killed")
        elif actor.steps == actor.pause_at:
            self.block(actor, actor.pause_seconds, "is paused")

    def block(self, actor: Actor, seconds: float, how: str) -> None:
        """Let no step of the actor run for `seconds`, its renewal of the lock included."""
        actor.paused_until = self.clock + seconds
        actor.delayed += seconds
        self.note(f"{actor.name} {how} for {seconds:.0f} s")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    def raise_failures(self) -> None:
        """Raise what a task has raised, except errors that the product plans for."""
        if self.violation:
            raise self.violation
        kept = []
        for task in self.tasks:
            if not task.done():
                kept.append(task)
                continue
            error = None if task.cancelled() else task.exception()
            if error and not isinstance(error, FraudopsError):
                raise error
        self.tasks = kept
