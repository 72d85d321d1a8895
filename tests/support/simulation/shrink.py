"""Shrink a failing seed: leave out events as long as the same rule is still broken."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.simulation.scenario import Scenario
from tests.support.simulation.world import SimulatedWorld, Violation

REPLAYS = 200
LINES = 40
Build = Callable[[frozenset[str]], Scenario]


@dataclass(frozen=True)
class Failure:
    """A violation, the events that it needs, and what happened."""

    violation: Violation
    without: frozenset[str]
    events: tuple[str, ...]
    world: SimulatedWorld

    @property
    def story(self) -> str:
        """The trace of the scenario in at most LINES lines, each with its virtual time."""
        lines = [line for line in self.world.trace if "prepared on" not in line]
        left = len(lines) - LINES + 1
        if left > 1:
            lines = [*lines[:8], f"           ({left} lines are left out)", *lines[8 + left :]]
        return "\n".join([*lines, f"violated: {self.violation.rule}: {self.violation}"])


def fails(build: Build, without: frozenset[str] = frozenset()) -> Failure | None:
    """Run the scenario once; return how it fails, or None."""
    scenario = build(without)
    try:
        scenario.run()
    except Violation as violation:
        happened = tuple(scenario.world.choices.happened)
        return Failure(violation, without, happened, scenario.world)
    return None


def shrink(build: Build, failure: Failure, replays: int = REPLAYS) -> Failure:
    """Return a failure of the same rule that needs fewer events.

    Leaves out all events of a kind first, then large groups, then smaller ones, for at most
    `replays` runs.
    """
    kinds = sorted({event.split(":")[0] for event in failure.events})
    for kind in kinds[:replays]:
        group = [event for event in failure.events if event.split(":")[0] == kind]
        failure = _without(build, failure, group)
    replays -= len(kinds)
    size = max(len(failure.events) // 2, 1)
    while replays > 0:
        before, start = failure, len(failure.events)
        while start > 0 and replays > 0:
            group = list(failure.events[max(start - size, 0) : start])
            failure, replays = _without(build, failure, group), replays - 1
            start = min(start - size, len(failure.events))
        if size == 1 and failure is before:
            break
        size = max(size // 2, 1)
    return failure


def _without(build: Build, failure: Failure, group: list[str]) -> Failure:
    """Return the failure that remains without the group, or the same if it needs the group."""
    found = fails(build, failure.without | frozenset(group))
    return found if found and found.violation.rule == failure.violation.rule else failure
