"""The promotion protocol: lock, gate, prepare, commit, sync the alias, activate.

If a step before the commit fails, nothing has changed.

Plain code over the ports. A promoter may be killed between any two effects: before the commit
nothing has changed, after it the next try of the same request, the reconciler, or the pods
themselves finish by reading the record.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion import serving_record
from fraudops.promotion.convergence import Convergence, PromotionResult, write_record
from fraudops.promotion.ports import (
    Attempt,
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    PromotionCandidate,
    PromotionPorts,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.serving_record import Reservation, ServingRecord, ServingTarget, Strategy

Choose = Callable[[ServingRecord], Awaitable[PromotionCandidate]]


TRIES = 10


@dataclass(frozen=True)
class PromotionRequest:
    """`id` is the same for all tries;

    `choose` is the gate: it names the version, or raises RefusedError with the reason.
    """

    id: str
    requested_by: str
    choose: Choose
    version: str = ""
    strategy: Strategy = "broadcast"
    rollback: bool = False


class Promoter:
    """One promoter: a Job in the cluster, a command on one machine."""

    def __init__(self, ports: PromotionPorts, convergence: Convergence | None = None) -> None:
        self.ports, self.convergence = ports, convergence or Convergence(ports)

    async def run(self, request: PromotionRequest) -> PromotionResult:
        """Raises StoreDownError when the lock, the record or the registry is not to be had before
        the commit; nothing has changed then.
        """
        async with self.ports.lock.hold(request.id):
            record, token = await self.ports.records.read()
            record = await self.undo_unfinished_rollout(record, token)
            serving = record.current.version if record.current else None
            at = self.ports.clock.timestamp()
            attempt = Attempt(
                request.id,
                request.requested_by,
                request.strategy,
                at,
                version=request.version,
                from_version=serving,
            )
            first = record.first_reservation(request.id)
            if first is not None and (
                finished := await self._resume(record, first, request, attempt)
            ):
                return finished
            try:
                candidate = await request.choose(record)
            except RefusedError as refusal:
                return await self.convergence.end(attempt, "refused", record, str(refusal))
            current = record.current
            attempt = replace(attempt, version=candidate.version, digest=candidate.digest)
            if (
                current
                and (current.digest, current.version) == (candidate.digest, candidate.version)
                and await self._is_newest(record)
            ):
                return await self.convergence.finish(attempt, record, "unchanged")
            await self.ports.journal.write(attempt)
            return await self._promote(request, candidate, attempt)

    async def _resume(
        self, record: ServingRecord, first: int, request: PromotionRequest, attempt: Attempt
    ) -> PromotionResult | None:
        """What an earlier try of this request left: its own commit is finished, a later promotion
        ends it, else it begins anew.
        """
        current, reserved = record.current, record.reserved
        if current and current.by == request.id:
            attempt = replace(
                attempt, version=current.version, digest=current.digest, epoch=current.epoch
            )
            return await self.convergence.finish(
                attempt, record, "failed" if current.undo else "done"
            )
        later = [
            entry
            for entry in (current, reserved)
            if entry and entry.by != request.id and entry.epoch > first
        ]
        if later:
            return await self.convergence.end(
                attempt,
                "overtaken",
                record,
                f"version {later[0].version} was promoted meanwhile (epoch {later[0].epoch})",
            )
        return None

    async def _promote(
        self, request: PromotionRequest, candidate: PromotionCandidate, attempt: Attempt
    ) -> PromotionResult:
        try:
            reserved, token = await self._reserve(request, candidate)
        except StaleRecordError:
            record, _ = await self.ports.records.read()
            return await self.convergence.end(
                attempt, "overtaken", record, "another promotion began at the same moment"
            )
        target = ServingTarget(reserved.highest_epoch, candidate.version, candidate.digest)
        attempt = replace(attempt, epoch=target.epoch)
        by_rollout = request.strategy == "rollout" and self.ports.rollouts is not None
        refusal = await (self._roll_out(target) if by_rollout else self._prepare_everywhere(target))
        if refusal:
            return await self._give_up(target, reserved, token, attempt, refusal)
        record = serving_record.commit(reserved)
        try:
            await self._commit(record, token)
        except StaleRecordError:
            await self._take_back(target, attempt)
            record, _ = await self.ports.records.read()
            return await self.convergence.end(
                attempt, "overtaken", record, "another promotion has written the record"
            )
        self.ports.say(f"committed: epoch {target.epoch} is version {target.version}")
        return await self.convergence.finish(attempt, record, "done")

    async def _commit(self, record: ServingRecord, token: Any) -> None:
        """Write the commit point.

        The token is the one that the reservation returned, never one of a later read.
        """
        await write_record(self.ports.records, record, token)

    async def _reserve(
        self, request: PromotionRequest, candidate: PromotionCandidate
    ) -> tuple[ServingRecord, Any]:
        """Above the highest epoch of the record and of every pod that answers."""
        record, token = await self.ports.records.read()
        epoch = (
            max(
                [
                    record.highest_epoch,
                    *await self.convergence.pod_epochs(await self.ports.pods.list()),
                ]
            )
            + 1
        )
        reservation = Reservation(
            epoch=epoch,
            version=candidate.version,
            digest=candidate.digest,
            schema_fingerprint=candidate.schema_fingerprint,
            strategy=request.strategy,
            by=request.id,
            at=self.ports.clock.timestamp(),
            requested_by=request.requested_by,
            rollback=request.rollback,
            verdict=candidate.verdict,
            waiver=candidate.waiver,
            sample=candidate.sample,
        )
        reserved = serving_record.reserve(record, reservation)
        token = await write_record(self.ports.records, reserved, token)
        self.ports.say(f"reserved epoch {epoch} for version {candidate.version}")
        return reserved, token

    async def _is_newest(self, record: ServingRecord) -> bool:
        """False when a pod has seen a later epoch: the record came back from a backup, and only a
        new epoch brings the pods after it.
        """
        return (
            max([0, *await self.convergence.pod_epochs(await self.ports.pods.list())])
            <= record.epoch
        )

    async def _prepare_everywhere(self, target: ServingTarget) -> str | None:
        """None when every ready pod holds the version, else the reason of the first that does not.

        An unready pod has a veto only when none is ready.
        """
        end = self.ports.clock.now() + self.ports.deadlines.prepare
        asked: set[str] = set()
        while True:
            pods = await self.ports.pods.list()
            if not pods and await self.ports.pods.desired_replicas() > 0:
                return "there is no pod to prepare; is the inference service running?"
            new = [pod for pod in pods if pod.name not in asked]
            none_ready = not any(pod.ready for pod in pods)
            veto = {pod.name for pod in new if pod.ready or none_ready}
            if not veto:
                return None
            asked |= veto
            answers = await asyncio.gather(
                *(self._prepare(pod, target, end, patient=pod.name in veto) for pod in new)
            )
            refusals = [
                answer
                for pod, answer in zip(new, answers, strict=True)
                if answer and pod.name in veto
            ]
            if refusals:
                return refusals[0]

    async def _prepare(
        self, pod: PodRef, target: ServingTarget, end: float, patient: bool
    ) -> str | None:
        """The pod's refusal, or None.

        A patient caller asks a silent pod again until the deadline, or until it is gone.
        """
        while True:
            seconds = end - self.ports.clock.now()
            if seconds <= 0:
                return f"pod {pod.name} was not prepared within {self.ports.deadlines.prepare:g} s"
            try:
                await self.ports.pods.prepare(pod, target, seconds)
            except PodRefusedError as error:
                return f"pod {pod.name}: {error}"
            except PodUnresponsiveError as error:
                if not patient:
                    return f"pod {pod.name}: {error}"
                await self.ports.clock.sleep(self.ports.deadlines.pause)
                if all(other.name != pod.name for other in await self.ports.pods.list()):
                    return None
            else:
                self.ports.say(f"prepared on {pod.name}")
                return None

    async def _roll_out(self, target: ServingTarget) -> str | None:
        """None when as many pods as wanted are ready at the new epoch, else why not.

        Old pods answer meanwhile.
        """
        assert self.ports.rollouts is not None
        rollouts = self.ports.rollouts
        try:
            await self._surely(lambda: rollouts.annotate(target))
        except StaleRecordError as error:
            return str(error)
        end = self.ports.clock.now() + self.ports.deadlines.rollout
        while True:
            ready = [pod for pod in await self.ports.pods.list() if pod.ready]
            there = [
                epoch for epoch in await self.convergence.pod_epochs(ready) if epoch == target.epoch
            ]
            if len(there) >= await self.ports.pods.desired_replicas():
                return None
            if self.ports.clock.now() >= end:
                return (
                    f"after {self.ports.deadlines.rollout:g} s only {len(there)} new pods "
                    f"are ready with version {target.version}"
                )
            await self.ports.clock.sleep(self.ports.deadlines.pause * 5)

    async def undo_unfinished_rollout(self, record: ServingRecord, token: Any) -> ServingRecord:
        """Whoever gets the lock next first undoes what a promoter that died before its commit has
        left on the pod template.
        """
        reserved = record.reserved
        if self.ports.rollouts is None or reserved is None or reserved.strategy != "rollout":
            return record
        rollouts = self.ports.rollouts
        self.ports.say(f"undoing the unfinished rollout of epoch {reserved.epoch}")
        released = serving_record.release(record)
        try:
            await self._surely(lambda: rollouts.undo(reserved.epoch))
            await write_record(self.ports.records, released, token)
        except StaleRecordError as error:
            raise StoreDownError(
                "another promotion is under way: try again when it has ended"
            ) from error
        return released

    async def _surely(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat an idempotent write until it succeeds. Raises StoreDownError after TRIES."""
        for _ in range(TRIES):
            try:
                return await write()
            except UnknownWriteError as error:
                self.ports.say(f"trying again: {error}")
                await self.ports.clock.sleep(self.ports.deadlines.pause)
        raise StoreDownError("the Kubernetes API does not answer writes")

    async def _give_up(
        self,
        target: ServingTarget,
        reserved: ServingRecord,
        token: Any,
        attempt: Attempt,
        refusal: str,
    ) -> PromotionResult:
        await self._take_back(target, attempt)
        try:
            await self.ports.records.compare_and_set(serving_record.release(reserved), token)
        except (StaleRecordError, UnknownWriteError, StoreDownError):
            self.ports.say("the reservation stays in the record; the next promotion replaces it")
        return await self.convergence.end(attempt, "refused", reserved, refusal)

    async def _take_back(self, target: ServingTarget, attempt: Attempt) -> None:
        """What was asked of the pods, before anything was committed."""
        if attempt.strategy == "rollout" and (rollouts := self.ports.rollouts):
            try:
                await self._surely(lambda: rollouts.undo(target.epoch))
            except StaleRecordError:
                self.ports.say("the pod template has been changed meanwhile: it is left as it is")
        await self._drop(target)

    async def _drop(self, target: ServingTarget) -> None:
        """Best effort: what is not dropped now goes at the deadline that the prepare carried."""

        async def drop(pod: PodRef) -> None:
            try:
                await self.ports.pods.drop(pod, target)
            except (PodUnresponsiveError, PodRefusedError):
                self.ports.say(
                    f"{pod.name} did not answer the drop; "
                    f"it drops version {target.version} at its deadline"
                )

        await asyncio.gather(*(drop(pod) for pod in await self.ports.pods.list()))
