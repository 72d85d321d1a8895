"""The promotion protocol: lock, gate, prepare everywhere, one commit, mirror, activate everywhere; or nothing has changed.

Plain code over the ports. A promoter may be killed between any two effects: before the commit nothing has changed, after it the next try of
the same request, the reconciler, or the pods themselves finish by reading the record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion import record as records_of
from fraudops.promotion.ports import (
    Aliases,
    Attempt,
    Candidate,
    Clock,
    Journal,
    Lock,
    Pod,
    PodRefusedError,
    Pods,
    PodSilentError,
    Records,
    StaleRecordError,
    Target,
    UnknownWriteError,
)
from fraudops.promotion.record import Reservation, ServingRecord, Strategy

Outcome = Literal["done", "unchanged", "refused", "failed", "overtaken", "unconfirmed"]
Choose = Callable[[ServingRecord], Awaitable[Candidate]]


@dataclass(frozen=True)
class Request:
    """`id` is the same for all tries; `choose` is the gate: it names the version, or raises RefusedError with the reason."""

    id: str
    requested_by: str
    choose: Choose
    version: str = ""
    strategy: Strategy = "broadcast"
    rollback: bool = False


@dataclass(frozen=True)
class Result:
    """`epoch` and `version` are what the record says at the end; `late` names what the reconciler still has to bring after it."""

    outcome: Outcome
    epoch: int
    version: str | None
    reason: str | None = None
    late: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deadlines:
    """Seconds: to prepare all pods, to activate them, and once more after a silent pod was deleted or the promotion was undone."""

    prepare: float = 60.0
    activate: float = 30.0
    second: float = 45.0
    pause: float = 0.2


class Overtaken(Exception):
    """The record belongs to a later promotion."""


class Promoter:
    """One promoter: a Job in the cluster, a command on one machine."""

    def __init__(
        self,
        records: Records,
        lock: Lock,
        aliases: Aliases,
        pods: Pods,
        journal: Journal,
        clock: Clock,
        say: Callable[[str], None] = lambda _: None,
        deadlines: Deadlines = Deadlines(),
    ) -> None:
        self.records, self.lock, self.aliases, self.pods = records, lock, aliases, pods
        self.journal, self.clock, self.say, self.deadlines = journal, clock, say, deadlines

    async def run(self, request: Request) -> Result:
        """Raises StoreDownError when the lock, the record or the registry is not to be had before the commit; nothing has changed then."""
        async with self.lock.hold(request.id):
            record, _ = await self.records.read()
            serving = record.current.version if record.current else None
            at = self.clock.timestamp()
            attempt = Attempt(request.id, request.requested_by, request.strategy, at, version=request.version, from_version=serving)
            first = record.first_reservation(request.id)
            if first is not None and (finished := await self._resume(record, first, request, attempt)):
                return finished
            try:
                candidate = await request.choose(record)
            except RefusedError as refusal:
                return await self._end(attempt, "refused", record, str(refusal))
            current = record.current
            attempt = replace(attempt, version=candidate.version, digest=candidate.digest)
            if current and (current.digest, current.version) == (candidate.digest, candidate.version) and await self._is_newest(record):
                return await self._finish(attempt, record, "unchanged")
            await self.journal.write(attempt)
            return await self._promote(request, candidate, attempt)

    async def _resume(self, record: ServingRecord, first: int, request: Request, attempt: Attempt) -> Result | None:
        """What an earlier try of this request left: its own commit is finished, a later promotion ends it, else it begins anew."""
        current, reserved = record.current, record.reserved
        if current and current.by == request.id:
            attempt = replace(attempt, version=current.version, digest=current.digest, epoch=current.epoch)
            return await self._finish(attempt, record, "failed" if current.undo else "done")
        later = [entry for entry in (current, reserved) if entry and entry.by != request.id and entry.epoch > first]
        if later:
            return await self._end(attempt, "overtaken", record, f"version {later[0].version} was promoted meanwhile (epoch {later[0].epoch})")
        return None

    async def _promote(self, request: Request, candidate: Candidate, attempt: Attempt) -> Result:
        try:
            reserved, token = await self._reserve(request, candidate)
        except StaleRecordError:
            record, _ = await self.records.read()
            return await self._end(attempt, "overtaken", record, "another promotion began at the same moment")
        target = Target(reserved.highest_epoch, candidate.version, candidate.digest)
        attempt = replace(attempt, epoch=target.epoch)
        refusal = await self._prepare_everywhere(target)
        if refusal:
            return await self._give_up(target, reserved, token, attempt, refusal)
        record = records_of.commit(reserved)
        try:
            # The commit point, fenced by the token that the reservation returned, never by a later read.
            await self._write(record, token)
        except StaleRecordError:
            await self._drop(target)
            record, _ = await self.records.read()
            return await self._end(attempt, "overtaken", record, "another promotion has written the record")
        self.say(f"committed: epoch {target.epoch} is version {target.version}")
        return await self._finish(attempt, record, "done")

    async def _reserve(self, request: Request, candidate: Candidate) -> tuple[ServingRecord, Any]:
        """Above the highest epoch of the record and of every pod that answers."""
        record, token = await self.records.read()
        epoch = max([record.highest_epoch, *await self._pod_epochs(await self.pods.list())]) + 1
        reservation = Reservation(
            epoch=epoch,
            version=candidate.version,
            digest=candidate.digest,
            schema_fingerprint=candidate.schema_fingerprint,
            strategy=request.strategy,
            by=request.id,
            at=self.clock.timestamp(),
            rollback=request.rollback,
            verdict=candidate.verdict,
            waiver=candidate.waiver,
        )
        reserved = records_of.reserve(record, reservation)
        token = await self._write(reserved, token)
        self.say(f"reserved epoch {epoch} for version {candidate.version}")
        return reserved, token

    async def _pod_epochs(self, pods: Sequence[Pod]) -> list[int]:
        async def ask(pod: Pod) -> int:
            try:
                return await self.pods.epoch(pod)
            except PodSilentError:
                return 0

        return list(await asyncio.gather(*(ask(pod) for pod in pods)))

    async def _is_newest(self, record: ServingRecord) -> bool:
        """False when a pod has seen a later epoch: the record came back from a backup, and only a new epoch brings the pods after it."""
        return max([0, *await self._pod_epochs(await self.pods.list())]) <= record.epoch

    async def _prepare_everywhere(self, target: Target) -> str | None:
        """None when every ready pod holds the version, else the reason of the first that does not. An unready pod has a veto only when none is ready."""
        end = self.clock.now() + self.deadlines.prepare
        asked: set[str] = set()
        while True:
            pods = await self.pods.list()
            if not pods and await self.pods.wanted() > 0:
                return "there is no pod to prepare; is the inference service running?"
            new = [pod for pod in pods if pod.name not in asked]
            none_ready = not any(pod.ready for pod in pods)
            veto = {pod.name for pod in new if pod.ready or none_ready}
            if not veto:
                return None
            asked |= veto
            answers = await asyncio.gather(*(self._prepare(pod, target, end, patient=pod.name in veto) for pod in new))
            refusals = [answer for pod, answer in zip(new, answers, strict=True) if answer and pod.name in veto]
            if refusals:
                return refusals[0]

    async def _prepare(self, pod: Pod, target: Target, end: float, patient: bool) -> str | None:
        """The pod's refusal, or None. A patient caller asks a silent pod again until the deadline, or until it is gone."""
        while True:
            seconds = end - self.clock.now()
            if seconds <= 0:
                return f"pod {pod.name} was not prepared within {self.deadlines.prepare:g} s"
            try:
                await self.pods.prepare(pod, target, seconds)
            except PodRefusedError as error:
                return f"pod {pod.name}: {error}"
            except PodSilentError as error:
                if not patient:
                    return f"pod {pod.name}: {error}"
                await self.clock.sleep(self.deadlines.pause)
                if all(other.name != pod.name for other in await self.pods.list()):
                    return None
            else:
                self.say(f"prepared on {pod.name}")
                return None

    async def _give_up(self, target: Target, reserved: ServingRecord, token: Any, attempt: Attempt, refusal: str) -> Result:
        await self._drop(target)
        try:
            await self.records.compare_and_set(records_of.release(reserved), token)
        except (StaleRecordError, UnknownWriteError, StoreDownError):
            self.say("the reservation stays in the record; the next promotion replaces it")
        return await self._end(attempt, "refused", reserved, refusal)

    async def _drop(self, target: Target) -> None:
        """Best effort: what is not dropped now goes at the deadline that the prepare carried."""

        async def drop(pod: Pod) -> None:
            try:
                await self.pods.drop(pod, target)
            except (PodSilentError, PodRefusedError):
                self.say(f"{pod.name} did not answer the drop; it drops version {target.version} at its deadline")

        await asyncio.gather(*(drop(pod) for pod in await self.pods.list()))

    async def _write(self, wanted: ServingRecord, token: Any) -> Any:
        """One compare-and-set; an answer that was lost is settled by looking."""
        while True:
            try:
                return await self.records.compare_and_set(wanted, token)
            except (StaleRecordError, UnknownWriteError) as error:
                record, seen = await self.records.read()
                if record == wanted:
                    return seen
                if seen != token:
                    raise StaleRecordError("the record has moved on") from error

    async def _finish(self, attempt: Attempt, record: ServingRecord, outcome: Outcome) -> Result:
        """Everything after the commit: mirror, activate, row. Safe to run again."""
        current = record.current
        if current is None:
            raise FraudopsError("a promotion was to be finished, but the record names no version")
        try:
            late = await self._mirror(current.epoch)
            silent = await self._activate_everywhere(current.epoch, self.deadlines.activate)
            reason = None
            if silent:
                record, outcome, reason = await self._answer_silence(record, silent, outcome)
            await self._still_mine(record)
        except Overtaken:
            record, _ = await self.records.read()
            return await self._end(attempt, "overtaken", record, "a later promotion has written the record")
        return await self._end(attempt, outcome, record, reason, late)

    async def _mirror(self, epoch: int) -> tuple[str, ...]:
        return await mirror(self.records, self.aliases, epoch)

    async def _still_mine(self, record: ServingRecord) -> None:
        latest, _ = await self.records.read()
        if latest.epoch != record.epoch:
            raise Overtaken

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[Pod]:
        """Tells every pod that exists after the commit to read the record; returns those that neither follow nor go within the deadline."""
        end = self.clock.now() + seconds
        waiting = list(await self.pods.list())
        while not waiting and await self.pods.wanted() > 0 and self.clock.now() < end:
            await self.clock.sleep(self.deadlines.pause)
            waiting = list(await self.pods.list())
        if not waiting and await self.pods.wanted() > 0:
            return [Pod("(no pod at all)", ready=False)]
        while waiting:
            reached = await asyncio.gather(*(self._activate(pod, epoch, max(end - self.clock.now(), 0.1)) for pod in waiting))
            waiting = [pod for pod, there in zip(waiting, reached, strict=True) if not there]
            if not waiting or self.clock.now() >= end:
                break
            await self.clock.sleep(self.deadlines.pause)
            existing = {pod.name for pod in await self.pods.list()}
            waiting = [pod for pod in waiting if pod.name in existing]
        return waiting

    async def _activate(self, pod: Pod, epoch: int, seconds: float) -> bool:
        try:
            reached = await self.pods.activate(pod, epoch, seconds)
        except (PodSilentError, PodRefusedError) as error:
            self.say(f"{pod.name} has not followed yet: {error}")
            return False
        if reached > epoch:  # overtaken, unless the record is older than the pod
            latest, _ = await self.records.read()
            return reached <= latest.epoch
        return reached == epoch

    async def _answer_silence(self, record: ServingRecord, silent: list[Pod], outcome: Outcome) -> tuple[ServingRecord, Outcome, str | None]:
        """One silent pod is deleted; more than one sends the promotion back, once; what then is still there ends it as unconfirmed."""
        names = ", ".join(pod.name for pod in silent)
        current = record.current
        if current is None or not await self.lock.held():
            raise Overtaken
        if len(silent) == 1 and silent[0].name != "(no pod at all)":
            self.say(f"{names} is silent: deleting it")
            try:
                await self.pods.delete(silent[0])
            except (PodSilentError, PodRefusedError) as error:
                self.say(f"{names} cannot be deleted: {error}")
        elif record.previous is None or current.undo or len(silent) == 1:
            return record, "failed" if record.previous is None else "unconfirmed", f"not confirmed by {names} within {self.deadlines.activate:g} s"
        else:
            record = await self._undo(record, silent)
            outcome = "failed"
        still = await self._activate_everywhere(record.epoch, self.deadlines.second)
        if still:
            return record, "unconfirmed", f"not confirmed by {', '.join(pod.name for pod in still)}"
        return record, outcome, f"went back: not confirmed by {names}" if outcome == "failed" else None

    async def _undo(self, record: ServingRecord, silent: list[Pod]) -> ServingRecord:
        """One more commit, compared with our own: a new epoch with the version before."""
        latest, token = await self.records.read()
        if latest.epoch != record.epoch:
            raise Overtaken
        epoch = max([latest.highest_epoch, *await self._pod_epochs(await self.pods.list())]) + 1
        back = records_of.undo(latest, epoch, self.clock.timestamp())
        self.say(f"{len(silent)} pods are silent: going back, epoch {epoch}")
        try:
            await self._write(back, token)
        except StaleRecordError as error:
            raise Overtaken from error
        await self._mirror(epoch)
        return back

    async def _end(self, attempt: Attempt, outcome: Outcome, record: ServingRecord, reason: str | None = None, late: tuple[str, ...] = ()) -> Result:
        row = "done" if outcome == "unchanged" else outcome
        reason = "already in production" if outcome == "unchanged" and reason is None else reason
        await self.journal.write(replace(attempt, outcome=row, reason=reason))
        return Result(outcome, record.epoch, record.current.version if record.current else None, reason, late)


async def mirror(records: Records, aliases: Aliases, epoch: int) -> tuple[str, ...]:
    """Writes the alias and looks at the record again, until both agree; then notes it. Raises Overtaken when the record is no longer at `epoch`.

    With the registry or the record's store away it returns what is late: the reconciler brings it.
    """
    try:
        while True:
            record, _ = await records.read()
            if record.current is None:
                return ()
            await aliases.set("production", record.current.version)
            if record.stack:
                await aliases.set("champion", record.stack[0].version)
            latest, token = await records.read()
            if latest.epoch == record.epoch and await aliases.get("production") == record.current.version:
                break
        if latest.mirrored < latest.epoch:
            await records.compare_and_set(records_of.mirror(latest, latest.epoch), token)
    except (StoreDownError, StaleRecordError, UnknownWriteError):
        return ("alias",)
    if latest.epoch != epoch:
        raise Overtaken
    return ()
