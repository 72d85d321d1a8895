"""The promotion protocol: lock, decide, reserve, prepare, commit, converge, record the outcome.

If a step before the commit fails, nothing has changed. A promoter may be killed between any two
effects. After the commit the next try of the same request, the reconciler, or the pods finish,
because all of them read the record. docs/promotion.md has the rules.
"""

from collections.abc import Awaitable
from typing import Any

import msgspec

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, Rollback, commit, reservation
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.outcomes import (
    Outcomes,
    of_earlier_try,
    with_abandoned,
    with_model,
    with_outcome,
)
from fraudops.promotion.patience import TRIES, Superseded, read_record, repeat, write_record
from fraudops.promotion.ports import PromotionPorts, StaleRecordError, UnknownWriteError
from fraudops.promotion.preparation import Preparation, pod_epochs
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.serving_record import (
    Reservation,
    ServingRecord,
    check_writable,
    keep_outcome,
    release,
    reserve,
)

State = tuple[ServingRecord, Any]
CHANGED = "the serving record has changed before the commit"
LOST_LOCK = "another promotion has taken the lock"
# An annotation that was edited by hand may name any epoch of up to 15 digits. Without this limit,
# the next epoch could have 16, and no pod reads such an annotation.
BY_HAND = 10**12


class Promoter:
    """One promoter: a Job in the cluster, a command on one machine."""

    def __init__(
        self,
        ports: PromotionPorts,
        preparation: Preparation | None = None,
        convergence: Convergence | None = None,
    ) -> None:
        self.ports = ports
        self.preparation = preparation or Preparation(ports)
        self.convergence = convergence or Convergence(ports)
        self.outcomes = Outcomes(ports)

    async def run(self, request: PromotionRequest) -> PromotionResult:
        """Carry out the request and return how it ended.

        Raises NewerFormatError, and what the gate raises besides RefusedError. Raises
        StoreDownError when the lock, the record or the registry is unavailable before the commit,
        or the outcome cannot be stored anywhere. The next try of the same request continues then.
        """
        async with self.ports.lock.hold(request.id):
            attempt = Attempt(
                request=request.id,
                requested_by=request.requested_by,
                actor=request.actor,
                authenticated=request.authenticated,
                approver=request.approver,
                act=request.act,
                strategy=request.strategy,
                at=self.ports.clock.timestamp(),
                version=request.version,
            )
            return await self._end(await self._run(request, attempt))

    async def _run(self, request: PromotionRequest, attempt: Attempt) -> Ending:
        """Decide from one read of the record, reserve on its token, and carry the act out.

        If the record has changed since the read, decide again.
        """
        for _ in range(TRIES):
            record, token = await self.ports.records.read()
            check_writable(record)
            record, token = await self.clear_abandoned((record, token), request.id)
            attempt = msgspec.structs.replace(
                attempt, from_version=record.current.version if record.current else None
            )
            if finished := await self._resume(record, request, attempt):
                return finished
            try:
                change = await self._decide(request, record)
            except RefusedError as refusal:
                return Ending(with_outcome(attempt, "refused", str(refusal)), record)
            attempt = with_model(attempt, change.model, change.strategy)
            if await self._serves_already(record, change):
                serves = with_outcome(attempt, "unchanged", "already in production")
                return await self._converged(serves, self.convergence.look(serves, record))
            # The gate may take long. Another try may have reported a refusal since, without a
            # write that makes the token stale.
            if not await self.ports.lock.held():
                return await self._not_begun(attempt, record, LOST_LOCK)
            try:
                reserved, token = await self._reserve(request, change, (record, token))
            except StaleRecordError:
                self.ports.say("the serving record has changed: deciding again")
                await self.ports.clock.sleep(self.ports.deadlines.pause)
                continue
            except FraudopsError as error:
                # The write may have happened. The next holder of the lock then takes it back.
                return await self._not_begun(attempt, record, str(error), error)
            # Only now: a promoter that dies earlier leaves no reservation that ends its row.
            await self.outcomes.started(attempt)
            return await self._carry_out(attempt, (reserved, token))
        return await self._not_begun(attempt, record, "the serving record changes too often")

    async def _not_begun(
        self,
        attempt: Attempt,
        record: ServingRecord,
        reason: str,
        error: FraudopsError | None = None,
    ) -> Ending:
        """Return `overtaken` if another act has committed since the record was read.

        Otherwise store the row, and raise the error or StoreDownError. The next try begins again.
        """
        ending = await self._checked(Ending(with_outcome(attempt, "refused", reason), record))
        if ending.attempt.outcome == "overtaken":
            return ending
        await self.outcomes.ended(ending.attempt)
        raise error or StoreDownError(f"{reason}: try again")

    async def _decide(self, request: PromotionRequest, record: ServingRecord) -> Promote | Rollback:
        """Return the gate's act. Raises RefusedError."""
        if request.if_epoch is not None and request.if_epoch != record.epoch:
            serves = f"version {record.current.version}" if record.current else "no version"
            raise RefusedError(
                f"the serving record is at epoch {record.epoch}, where {serves} serves, "
                f"not at epoch {request.if_epoch}"
            )
        return await request.decide(record)

    async def _resume(
        self, record: ServingRecord, request: PromotionRequest, attempt: Attempt
    ) -> Ending | None:
        """Finish the commit of an earlier try of this request. Return None if there is none.

        A later act of another request ends this one as `overtaken`.
        """
        current = record.current
        if current and current.by == request.id:
            attempt = of_earlier_try(attempt, record)
            self.ports.say(f"an earlier try has committed epoch {current.epoch}")
            if current.act == "undo":
                back = f"an earlier try went back to version {current.version}"
                reason = attempt.reason or back
                attempt = with_outcome(attempt, "failed", reason)
            else:
                attempt = msgspec.structs.replace(attempt, outcome="done")
            return await self._converged(attempt, self.convergence.finish(attempt, record))
        first = record.first_reservation(request.id)
        if current and first is not None and current.epoch > first:
            since = f"version {current.version} was promoted since (epoch {current.epoch})"
            attempt = msgspec.structs.replace(attempt, epoch=first)
            return Ending(with_outcome(attempt, "overtaken", since), record)
        return None

    async def _serves_already(self, record: ServingRecord, change: Promote | Rollback) -> bool:
        """Whether the act only reports, because its model serves already.

        It is False when a pod has seen a later epoch. The record was then restored from a backup,
        and only a new epoch makes the pods follow it again. It is also False when another key has
        signed the new verdict or waiver. A new entry then holds the new signature, and the old key
        can be retired.
        """
        current = record.current
        if current is None or not change.model.is_same_model(current):
            return False
        if not change.model.is_signed_by_keys_of(current):
            return False
        epochs = await pod_epochs(self.ports, await self.ports.pods.list())
        return all(epoch <= record.epoch for epoch in epochs)

    async def _reserve(
        self, request: PromotionRequest, change: Promote | Rollback, state: State
    ) -> State:
        """Reserve an epoch above those of the record, the annotation and every pod that answers.

        The token is that of the read from which the act was decided. Raises StaleRecordError when
        the record has changed since.
        """
        record, token = state
        annotated = await self.ports.rollouts.annotated() if self.ports.rollouts else None
        pods = await pod_epochs(self.ports, await self.ports.pods.list())
        seen = [annotated.epoch, *pods] if annotated and annotated.epoch < BY_HAND else pods
        epoch = max([record.highest_epoch, *seen]) + 1
        now = self.ports.clock.timestamp()
        wanted = reserve(record, reservation(change, epoch, request.id, request.requested_by, now))
        token = await write_record(self.ports, wanted, token)
        self.ports.say(f"reserved epoch {epoch} for version {change.model.version}")
        return wanted, token

    async def _carry_out(self, attempt: Attempt, state: State) -> Ending:
        """Prepare or roll out the reserved version, commit it, and activate every pod."""
        reserved, token = state
        assert reserved.reserved is not None
        target, by_rollout = reserved.reserved.target, self._by_rollout(reserved.reserved)
        attempt = msgspec.structs.replace(attempt, epoch=target.epoch)
        refusal = await (
            self.preparation.roll_out(target) if by_rollout else self.preparation.prepare(target)
        )
        if refusal:
            return await self._refused(attempt, refusal, (reserved, token))
        # The row is true if this promoter dies now. It replaces the row when the pods follow.
        record = commit(
            reserved,
            with_outcome(attempt, "unconfirmed", "its promoter ended before its pods followed"),
        )
        done = msgspec.structs.replace(attempt, outcome="done")
        try:
            await self._commit(record, token)
        except StaleRecordError:
            return await self._after_stale_commit(done, reserved)
        self.ports.say(f"committed: epoch {target.epoch} is version {target.version}")
        return await self._converged(done, self.convergence.finish(done, record))

    async def _refused(self, attempt: Attempt, refusal: str, state: State) -> Ending:
        """Take back the reservation, and name the pods that still serve its version."""
        reserved, token = state
        assert reserved.reserved is not None
        target, by_rollout = reserved.reserved.target, self._by_rollout(reserved.reserved)
        taken_back = await self.preparation.take_back(target, by_rollout)
        # Before the wait: a new pod obeys the annotation while the record reserves the same.
        if taken_back:
            await self._release(reserved, token, with_outcome(attempt, "refused", refusal))
        else:
            refusal += "; the rollout goes on until the reconciler removes the annotation"
        still = await self.preparation.wait_until_replaced(target) if by_rollout else ()
        if still:
            refusal += (
                f"; these pods may answer with version {target.version} until Kubernetes replaces "
                f"them: {', '.join(still)}"
            )
        refused = msgspec.structs.replace(with_outcome(attempt, "refused", refusal), behind=still)
        return Ending(refused, release(reserved))

    def _by_rollout(self, reserved: Reservation) -> bool:
        return reserved.strategy == "rollout" and self.ports.rollouts is not None

    async def _commit(self, record: ServingRecord, token: Any) -> None:
        """Write the commit point, the fence against a promoter that was paused.

        The token is the one that the reservation returned, never that of a later read. Raises
        StaleRecordError, StoreDownError or UnknownWriteError.
        """
        try:
            await write_record(self.ports, record, token)
        except UnknownWriteError as error:
            raise UnknownWriteError(
                f"whether epoch {record.epoch} is committed is unknown, because {error}. The next "
                "try of the Job, or the reconciler, finds out; see `fraudops status`"
            ) from error

    async def _release(self, reserved: ServingRecord, token: Any, refused: Attempt) -> None:
        """Remove the reservation, and keep the row in case that this promoter dies now."""
        try:
            released = keep_outcome(release(reserved), refused)
            await write_record(self.ports, released, token)
        except FraudopsError as error:
            self.ports.say(f"the next holder of the lock removes the reservation: {error}")

    async def clear_abandoned(self, state: State, request: str) -> State:
        """Take back the reservation of another promoter, which is dead or has lost the lock.

        A rollout of the same request is taken back too, and then begins again. Raises
        StoreDownError when the record or the pod template has changed, or cannot be written.
        """
        record, token = state
        reserved = record.reserved
        if reserved is None or (reserved.by == request and not self._by_rollout(reserved)):
            return state
        self.ports.say(f"taking back epoch {reserved.epoch}, which was not committed")
        released = with_abandoned(release(record), reserved)
        try:
            if self._by_rollout(reserved) and (rollouts := self.ports.rollouts):
                await repeat(self.ports, lambda: rollouts.undo(reserved.epoch))
            return released, await write_record(self.ports, released, token)
        except StaleRecordError as error:
            raise StoreDownError(
                "another promotion is under way: try again when it has ended"
            ) from error

    async def _converged(self, attempt: Attempt, steps: Awaitable[Ending]) -> Ending:
        """Return how the steps after the commit ended, or `overtaken` by a later act."""
        try:
            return await steps
        except Superseded:
            later = "a later act has written the record"
            record, _ = await read_record(self.ports)
            return Ending(with_outcome(attempt, "overtaken", later), record)

    async def _after_stale_commit(self, done: Attempt, reserved: ServingRecord) -> Ending:
        """Go on after a commit whose token was stale.

        The commit may have happened, if its answer was lost and the record has changed since.
        Otherwise the act ends as `overtaken` if another one has committed. Raises StoreDownError
        if none has, and the next try reserves again.
        """
        assert reserved.reserved is not None
        target = reserved.reserved.target
        record, _ = await read_record(self.ports)
        if record.current and record.current.target == target:
            return await self._converged(done, self.convergence.finish(done, record))
        await self.preparation.take_back(target, self._by_rollout(reserved.reserved))
        return await self._not_begun(done, reserved, CHANGED)

    async def _end(self, ending: Ending) -> PromotionResult:
        """Store the row of the act, and return the result.

        Raises what `_checked` raises, and StoreDownError when the row cannot be stored. A refusal
        without the lock raises it too, because another try may commit what this one refuses.
        """
        ending = await self._checked(ending)
        attempt, record = ending.attempt, ending.record
        late = ending.late + await self.outcomes.ended(attempt)
        if attempt.outcome == "refused" and not await self.ports.lock.held():
            raise StoreDownError(f"{LOST_LOCK}: try again to see how it ended")
        current = record.current
        return PromotionResult(
            attempt.act,
            attempt.outcome,
            record.epoch,
            current.version if current else None,
            attempt.reason,
            late,
            attempt.behind,
            undone=bool(current and current.act == "undo" and current.by == attempt.request),
        )

    async def _checked(self, ending: Ending) -> Ending:
        """Compare the end of an act that does not serve with the latest record.

        Raises StoreDownError when another try of the same request has gone on, because that one
        reports, and when the record cannot be read without the lock.
        """
        attempt = ending.attempt
        if attempt.outcome not in ("refused", "overtaken"):
            return ending
        try:
            record, _ = await read_record(self.ports)
        except StoreDownError:
            if await self.ports.lock.held():
                return ending
            raise
        ours = [at for at in (record.current, record.reserved) if at and at.by == attempt.request]
        if any(at.epoch != attempt.epoch or at is record.current for at in ours):
            raise StoreDownError(
                "another try of this request has gone on with it: try again to see how it ended"
            )
        if attempt.outcome == "refused" and record.epoch > ending.record.epoch:
            later = f"a later act has written the record, and {attempt.reason}"
            attempt = with_outcome(attempt, "overtaken", later)
        return Ending(attempt, record, ending.late)
