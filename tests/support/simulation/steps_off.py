"""Rules of the steps, each switched off alone: promoter, prepare, convergence, rows."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fraudops.errors import FraudopsError, RefusedError
from fraudops.promotion import (
    changes,
    convergence,
    mirror,
    outcomes,
    patience,
    preparation,
    protocol,
    serving_record,
)
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.ports import PromotionPorts
from fraudops.promotion.preparation import Preparation
from fraudops.promotion.protocol import Promoter
from tests.support.simulation.decisions_off import UNDO_WEATHER
from tests.support.simulation.jobs import MakePromoter
from tests.support.simulation.store import SimLock
from tests.support.simulation.switch_off import Off, always, constant, off
from tests.support.simulation.world import Rules

# -- the promoter


class CommitsWithALaterRead(Promoter):
    """Compares the commit with a later read instead of with the reservation's token."""

    async def _commit(self, record: Any, token: Any) -> None:
        _, token = await self.ports.records.read()
        await super()._commit(record, token)


class ReservesWithALaterRead(Promoter):
    """Compares the reservation with a later read than the one from which the act was decided."""

    async def _reserve(self, request: Any, change: Any, state: Any) -> Any:
        return await super()._reserve(request, change, await self.ports.records.read())


class IgnoresIfEpoch(Promoter):
    async def _decide(self, request: Any, record: Any) -> Any:
        return await request.decide(record)


class ForgetsEarlierTries(Promoter):
    async def _resume(self, *_: Any) -> None:
        return None


class CommitsWhatServes(Promoter):
    async def _serves_already(self, *_: Any) -> bool:
        return False


class TakesAStaleCommitAsOvertaken(Promoter):
    """Forgets that a commit may have happened although its answer was lost."""

    async def _after_stale_commit(self, done: Any, reserved: Any) -> Any:
        own = reserved.reserved
        await self.preparation.take_back(own.target, self._by_rollout(own))
        record, _ = await patience.read_record(self.ports)
        return Ending(outcomes.with_outcome(done, "overtaken", "another act came"), record)


class ReportsWithoutALastLook(Promoter):
    """Reports `refused` or `overtaken` without a comparison with the latest record."""

    async def _checked(self, ending: Any) -> Any:
        return ending


class LeavesRolloutsUnfinished(Promoter):
    """Leaves the annotation and the reservation of a dead promoter."""

    async def clear_abandoned(self, state: Any, request: str) -> Any:
        return state


PROMOTER = {
    "the commit is compared with the reservation": Off(promoter=CommitsWithALaterRead),
    "an act is reserved on the read that decided it": Off(
        promoter=ReservesWithALaterRead, odds={"blocking gate": 0.5}
    ),
    "a commit whose answer was lost is looked for": Off(
        promoter=TakesAStaleCommitAsOvertaken, odds={"lost answer": 0.3, "will be paused": 1.0}
    ),
    "an act that does not serve is compared with the latest record": Off(
        promoter=ReportsWithoutALastLook, odds={"a lost process lives": 1.0, "will be paused": 1.0}
    ),
    "an act acts only on the epoch that its user names": Off(promoter=IgnoresIfEpoch),
    "a try finishes what its request began": Off(promoter=ForgetsEarlierTries),
    "promoting what serves only reports": Off(promoter=CommitsWhatServes),
    "the next holder of the lock takes back an unfinished act": Off(
        promoter=LeavesRolloutsUnfinished
    ),
    "the reservation is above every pod's epoch": off(protocol, "pod_epochs", always([])),
}

# -- prepare


class ListsOnce(Preparation):
    """Asks the pods of one list, and does not list them again before the commit."""

    async def _prepare(self, target: Any, end: float, asked: Any) -> str | None:
        for pod in await self.ports.pods.list():
            if pod.takes_connections and (reason := await self._ask(pod, target, end)):
                return reason
        return None


class AsksOnce(Preparation):
    """Takes the first answer of a pod for good, also that it cannot answer now."""

    async def _ask(self, pod: Any, target: Any, end: float) -> str | None:
        return await super()._ask(pod, target, self.ports.clock.now() + 0.5)


class TakesARefusalAsConsent(Preparation):
    async def _ask(self, pod: Any, target: Any, end: float) -> str | None:
        await super()._ask(pod, target, end)
        return None


class TakesNoPodAsConsent(Preparation):
    async def _wants_no_pod(self, end: float) -> bool:
        return True


class LeavesThePodsOfARefusedRollout(Preparation):
    async def wait_until_replaced(self, target: Any) -> tuple[str, ...]:
        return ()


def _all_that_run(pods: Sequence[Any]) -> list[Any]:
    return [pod for pod in pods if pod.running and pod.lost is None]


def with_preparation(kind: type[Preparation]) -> MakePromoter:
    return lambda ports: Promoter(ports, preparation=kind(ports))


PREPARE = {
    "a ready pod has a veto": Off(promoter=with_preparation(TakesARefusalAsConsent)),
    "the pods are listed again before the commit": Off(promoter=with_preparation(ListsOnce)),
    "a pod that cannot answer now is asked again": Off(promoter=with_preparation(AsksOnce)),
    "unready pods are not waited for": off(
        preparation, "voters_of", _all_that_run, new_pod_has_no_network_yet=0.7, a_pod_ends=1.0
    ),
    "a refused rollout ends when its pods are gone": Off(
        promoter=with_preparation(LeavesThePodsOfARefusedRollout), odds={"a pod cannot load": 1.0}
    ),
    "no pod at all is no consent": Off(promoter=with_preparation(TakesNoPodAsConsent)),
}

# -- after the commit


class ActivatesEarlierPods(Convergence):
    """Activates only the pods of the last list before the commit."""

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[Any]:
        pods = getattr(self.ports.pods, "actor").listed  # noqa: B009
        for pod in pods:
            await self._activate(pod, epoch, 1.0)
        return []


class TakesALapsedLockAsOvertaken(Convergence):
    async def _handle_behind(self, attempt: Any, record: Any, behind: list[Any]) -> Any:
        if not await self.ports.lock.held():
            return Ending(
                outcomes.with_outcome(attempt, "overtaken", "the lock has lapsed"), record
            )
        return await super()._handle_behind(attempt, record, behind)


class TakesSilenceAsConsent(Convergence):
    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[Any]:
        await super()._activate_everywhere(epoch, 2.0)
        return []


class ForgetsLostPods(Convergence):
    """Takes pods that no new connection reaches as followed."""

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[Any]:
        behind = await super()._activate_everywhere(epoch, seconds)
        return [pod for pod in behind if pod.lost is None]


class CountsEveryPod(Convergence):
    """Lets pods that take no new connections trigger the undo."""

    async def _handle_behind(self, attempt: Any, record: Any, behind: list[Any]) -> Any:
        if len(behind) > 1 and convergence.decide_undo(record, attempt.request):
            return await self._undo(attempt, record, behind)
        return await super()._handle_behind(attempt, record, behind)


async def _list_without_restarts(ports: Any, end: float) -> list[Any]:
    """Show a pod whose container restarts like a pod that has never run."""
    return [replace(pod, restarting=False) for pod in await patience.list_pods(ports, end)]


def with_convergence(kind: type[Convergence]) -> MakePromoter:
    return lambda ports: Promoter(ports, convergence=kind(ports))


class MirrorsWithoutASecondRead(mirror.AliasMirror):
    """Writes the alias without reading the record a second time."""

    async def _write_until_agreed(self) -> Any:
        record, _ = await self.ports.records.read()
        await self._write(record)
        latest, _ = await self.ports.records.read()
        return await self._note_synced(latest, None)


class MirrorRaises(mirror.AliasMirror):
    """Lets an error of the registry end an act that is committed."""

    async def sync(self, epoch: int) -> tuple[str, ...]:
        record, _ = await self.ports.records.read()
        if record.current and not await self.ports.aliases.exists(record.current.version):
            raise RefusedError("no such version")
        return await super().sync(epoch)


def with_mirror(kind: type[mirror.AliasMirror]) -> MakePromoter:
    def make(ports: PromotionPorts) -> Promoter:
        return Promoter(ports, convergence=Convergence(ports, kind(ports)))

    return make


async def _write_without_pause(ports: Any, wanted: Any, token: Any) -> Any:
    while True:
        with contextlib.suppress(FraudopsError):
            return await ports.records.compare_and_set(wanted, token)


async def _write_over_the_latest(ports: Any, wanted: Any, token: Any) -> Any:
    _, latest = await ports.records.read()
    return await patience.write_record(ports, wanted, latest)


CONVERGENCE = {
    "an undo is compared with the read that decided it": off(
        convergence, "write_record", _write_over_the_latest, will_be_paused=1.0, **UNDO_WEATHER
    ),
    "the pods are listed after the commit": Off(promoter=with_convergence(ActivatesEarlierPods)),
    "silence is not consent": Off(promoter=with_convergence(TakesSilenceAsConsent)),
    # The last look at the record would hide this.
    "only another act overtakes": Off(
        promoter=lambda ports: ReportsWithoutALastLook(
            ports, convergence=TakesALapsedLockAsOvertaken(ports)
        ),
        odds={"pods fall silent after a commit": 1.0, "will be paused": 1.0},
    ),
    "a lost pod may still answer clients": Off(
        promoter=with_convergence(ForgetsLostPods), odds={"a node is lost": 1.0}
    ),
    "a container that restarts has the version that it had": off(
        convergence, "list_pods", _list_without_restarts, a_container_ends_after_a_commit=0.7
    ),
    "only pods that clients reach trigger an undo": Off(
        promoter=with_convergence(CountsEveryPod),
        odds={"a node is lost": 1.0, "pods fall silent after a commit": 1.0},
    ),
    "unready and terminating pods are activated too": Off(rules=Rules(lists_all=False)),
    "a deletion that was requested is not gone": Off(rules=Rules(gone_means_gone=False)),
    "an undo needs the lock": off(
        SimLock, "held", always(True), will_be_paused=1.0, **UNDO_WEATHER
    ),
    "the mirror reads the record again": Off(
        promoter=with_mirror(MirrorsWithoutASecondRead), odds={"paused before an alias": 0.3}
    ),
    "no error of the registry ends a committed act": Off(
        promoter=with_mirror(MirrorRaises), odds={"a version is deleted": 1.0}
    ),
    "tries of a write have a pause and a bound": off(
        protocol, "write_record", _write_without_pause
    ),
}

# -- rows

ROWS = {
    "a row that cannot be written stays in the record": off(
        outcomes, "keep_outcome", lambda record, _: record, the_database_is_away=1.0
    ),
    "the record has an outcome before the database": off(
        outcomes.Outcomes, "_report", always(None), will_be_killed=1.0, **UNDO_WEATHER
    ),
    "a commit keeps its row in the record": off(
        changes, "keep_outcome", lambda record, _: record, will_be_killed=1.0
    ),
    "an act that its promoter left has a row": off(
        protocol, "with_abandoned", lambda record, _: record, will_be_killed=1.0
    ),
    "the reconciler writes rows": off(
        outcomes.Outcomes, "flush", always(0), the_database_is_away=1.0
    ),
    "rows of release 0.2.0 are kept": off(serving_record, "_rows_of_old_format", constant(())),
}
