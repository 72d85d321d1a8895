"""A search for scenarios in which the promotion protocol breaks a rule.

The search itself is tested on protocols with one rule switched off.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.results import RESULTS
from fraudops.errors import StoreDownError
from fraudops.promotion import serving_record
from fraudops.promotion.convergence import Convergence, PromotionResult, write_record
from fraudops.promotion.ports import PodRef, PromotionPorts, StaleRecordError, UnknownWriteError
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.serving_record import ServingTarget, Strategy
from tests.support.figures import PROOF, Figures
from tests.support.simulation.scenario import STRATEGIES, Scenario
from tests.support.simulation.world import Rules, Violation

SEEDS = 10_000 if PROOF else int(os.environ.get("SIMULATION_SEEDS", "250"))
SEARCH = 4000


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    measured = Figures("simulation", "Promotion, searched for violations")
    yield measured
    measured.write()


def test_every_rule_holds_in_every_seed(figures: Figures) -> None:
    ended: dict[str, int] = {}
    for seed in range(SEEDS):
        scenario = Scenario(seed)
        try:
            scenario.run()
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
        for result in scenario.results.values():
            ended[result.outcome] = ended.get(result.outcome, 0) + 1
    assert ended["done"] > SEEDS / 5, ended
    assert {"refused", "failed", "overtaken", "unconfirmed", "unchanged"} <= ended.keys()
    figures.note(
        "seeds without a violation",
        f"{SEEDS}; promotions that ended "
        + ", ".join(f"{outcome} {times}" for outcome, times in sorted(ended.items())),
    )


class CommitsWithALaterRead(Promoter):
    """Compares the commit with a later read instead of with the reservation's token."""

    async def _commit(self, record: Any, token: Any) -> None:
        _, token = await self.ports.records.read()
        await super()._commit(record, token)


def with_convergence(kind: type[Convergence]) -> Callable[[PromotionPorts], Promoter]:
    """A promoter whose steps after the commit are those of `kind`."""
    return lambda ports: Promoter(ports, kind(ports))


class ActivatesListedPods(Convergence):
    """Only the pods in `listed` are activated."""

    listed: tuple[PodRef, ...] = ()

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[PodRef]:
        for pod in self.listed:
            await self._activate(pod, epoch, 1.0)
        return []


class ActivatesOnlyEarlierPods(Promoter):
    """Activates the pods that were listed before the commit."""

    def __init__(self, ports: PromotionPorts) -> None:
        self.activation = ActivatesListedPods(ports)
        super().__init__(ports, self.activation)

    async def _prepare_everywhere(self, target: ServingTarget) -> str | None:
        self.activation.listed = tuple(await self.ports.pods.list())
        return await super()._prepare_everywhere(target)


class ForgetsEarlierTries(Promoter):
    """Starts a retry afresh, without finishing or ending what an earlier try left."""

    async def _resume(self, *_: Any) -> PromotionResult | None:
        return None


class SyncsTheAliasWithoutASecondRead(Convergence):
    """Writes the alias without reading the record a second time."""

    async def _sync_alias(self, epoch: int) -> tuple[str, ...]:
        try:
            record, _ = await self.ports.records.read()
            await self.ports.aliases.set(
                "production", record.current.version if record.current else ""
            )
            latest, token = await self.ports.records.read()
            await self.ports.records.compare_and_set(
                serving_record.alias_synced(latest, latest.epoch), token
            )
        except (StaleRecordError, UnknownWriteError, StoreDownError):
            return ("alias",)
        return ()


class IgnoresThePodsEpochs(Convergence):
    """Reserves an epoch above the record's, but maybe not above the pods'."""

    async def pod_epochs(self, pods: Any) -> list[int]:
        return []


class TakesNoAnswerAsConsent(Convergence):
    """Takes a pod that does not answer the activation as activated."""

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[PodRef]:
        await super()._activate_everywhere(epoch, 2.0)
        return []


class DoesNotListThePodsAgain(Promoter):
    """Lists the pods once for the prepare, and not again before the commit.

    It does not wait for a pod that cannot follow afterwards.
    """

    async def _prepare_everywhere(self, target: ServingTarget) -> str | None:
        end = self.ports.clock.now() + self.ports.deadlines.prepare
        for pod in await self.ports.pods.list():
            await self._prepare(pod, target, end, patient=False)
        return None


class UndoesWithoutComparing(Convergence):
    """Writes the undo over the record, whatever the record holds by then."""

    async def _undo(self, record: Any, silent: list[PodRef]) -> Any:
        _, token = await self.ports.records.read()
        back = serving_record.undo(record, record.epoch + 1, self.ports.clock.timestamp())
        await write_record(self.ports.records, back, token)
        return back


class LeavesRolloutsUnfinished(Promoter):
    """Leaves the annotation of a dead promoter on the pod template."""

    async def undo_unfinished_rollout(self, record: Any, token: Any) -> Any:
        return record


def recorded_seed(rule: str) -> int:
    """Return the seed that `make proof` recorded for this rule, or 0.

    A search from that seed ends immediately while the scenarios are unchanged. After a change it
    goes on.
    """
    table = json.loads((RESULTS / "simulation.json").read_text())["tables"][0]
    recorded = dict(table["rows"]).get(f"switched off: {rule}", "")
    match = re.match(r"found in seed (\d+):", recorded)
    return int(match[1]) if match else 0


@pytest.mark.parametrize(
    ("rules", "promoter"),
    [
        pytest.param(Rules(refuse_lower_epochs=False), Promoter, id="pods refuse lower epochs"),
        pytest.param(Rules(pods_poll=False), Promoter, id="pods read the record by themselves"),
        pytest.param(
            Rules(list_all=False), Promoter, id="unready and terminating pods are activated too"
        ),
        pytest.param(Rules(gone_means_gone=False), Promoter, id="a deletion asked for is not gone"),
        pytest.param(
            Rules(annotation_needs_the_record=False),
            Promoter,
            id="a newborn obeys the annotation only while the record says the same",
        ),
        pytest.param(
            Rules(), CommitsWithALaterRead, id="the commit is compared with the reservation"
        ),
        pytest.param(Rules(), ActivatesOnlyEarlierPods, id="the pods are listed after the commit"),
        pytest.param(Rules(), ForgetsEarlierTries, id="a try finishes what its request began"),
        pytest.param(
            Rules(),
            with_convergence(SyncsTheAliasWithoutASecondRead),
            id="the mirror looks at the record again",
        ),
        pytest.param(
            Rules(),
            with_convergence(IgnoresThePodsEpochs),
            id="the reservation is above every pod's epoch",
        ),
        pytest.param(
            Rules(), with_convergence(TakesNoAnswerAsConsent), id="silence is not consent"
        ),
        pytest.param(Rules(), DoesNotListThePodsAgain, id="a ready pod has a veto"),
        pytest.param(
            Rules(),
            LeavesRolloutsUnfinished,
            id="the next holder of the lock undoes an unfinished rollout",
        ),
        pytest.param(
            Rules(),
            with_convergence(UndoesWithoutComparing),
            id="the way back is compared with the own commit",
        ),
    ],
)
def test_the_search_finds_a_violation_when_a_rule_is_switched_off(
    rules: Rules,
    promoter: Callable[[PromotionPorts], Promoter],
    request: pytest.FixtureRequest,
    figures: Figures,
) -> None:
    strategies: tuple[Strategy, ...] = (
        ("rollout", "broadcast")
        if "annotation" in request.node.name or "rollout" in request.node.name
        else STRATEGIES
    )
    first = 0 if PROOF else recorded_seed(request.node.callspec.id)
    for seed in (*range(first, SEARCH), *range(first)):
        try:
            Scenario(seed, rules, promoter, strategies).run()
        except Violation as violation:
            figures.note(
                f"switched off: {request.node.callspec.id}",
                f"found in seed {seed}: {str(violation).splitlines()[0]}",
            )
            return
    pytest.fail(f"no violation in {SEARCH} seeds: the search is blind to this rule")
