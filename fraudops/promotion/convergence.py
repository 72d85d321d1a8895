"""Steps after the commit of a promotion; all of them are idempotent.

They sync the alias, activate every pod, handle unresponsive pods, and record the outcome.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion import serving_record
from fraudops.promotion.ports import (
    Aliases,
    Attempt,
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    PromotionPorts,
    Records,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.serving_record import ServingRecord

PromotionOutcome = Literal["done", "unchanged", "refused", "failed", "overtaken", "unconfirmed"]


@dataclass(frozen=True)
class PromotionResult:
    """`epoch` and `version` are what the record says at the end;

    `late` names what the reconciler still has to bring after it.
    """

    outcome: PromotionOutcome
    epoch: int
    version: str | None
    reason: str | None = None
    late: tuple[str, ...] = ()


class Superseded(Exception):
    """The record belongs to a later promotion."""


class Convergence:
    """The steps after a commit: sync the alias, activate every pod, record the outcome."""

    def __init__(self, ports: PromotionPorts) -> None:
        self.ports = ports

    async def finish(
        self, attempt: Attempt, record: ServingRecord, outcome: PromotionOutcome
    ) -> PromotionResult:
        """Everything after the commit: mirror, activate, row. Safe to run again."""
        current = record.current
        if current is None:
            raise FraudopsError("a promotion was to be finished, but the record names no version")
        try:
            late = await self._sync_alias(current.epoch)
            unresponsive = await self._activate_everywhere(
                current.epoch, self.ports.deadlines.activate
            )
            reason = None
            if unresponsive:
                record, outcome, reason = await self._handle_unresponsive(
                    record, unresponsive, outcome
                )
            await self._still_mine(record)
        except Superseded:
            record, _ = await self.ports.records.read()
            return await self.end(
                attempt, "overtaken", record, "a later promotion has written the record"
            )
        return await self.end(attempt, outcome, record, reason, late)

    async def _sync_alias(self, epoch: int) -> tuple[str, ...]:
        return await sync_alias(self.ports.records, self.ports.aliases, epoch)

    async def _still_mine(self, record: ServingRecord) -> None:
        latest, _ = await self.ports.records.read()
        if latest.epoch != record.epoch:
            raise Superseded

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[PodRef]:
        """Tells every pod that exists after the commit to read the record; returns those that
        neither follow nor go within the deadline.
        """
        end = self.ports.clock.now() + seconds
        waiting = list(await self.ports.pods.list())
        while (
            not waiting
            and await self.ports.pods.desired_replicas() > 0
            and self.ports.clock.now() < end
        ):
            await self.ports.clock.sleep(self.ports.deadlines.pause)
            waiting = list(await self.ports.pods.list())
        if not waiting and await self.ports.pods.desired_replicas() > 0:
            return [PodRef("(no pod at all)", ready=False)]
        while waiting:
            reached = await asyncio.gather(
                *(
                    self._activate(pod, epoch, max(end - self.ports.clock.now(), 0.1))
                    for pod in waiting
                )
            )
            waiting = [pod for pod, there in zip(waiting, reached, strict=True) if not there]
            if not waiting or self.ports.clock.now() >= end:
                break
            await self.ports.clock.sleep(self.ports.deadlines.pause)
            existing = {pod.name for pod in await self.ports.pods.list()}
            waiting = [pod for pod in waiting if pod.name in existing]
        return waiting

    async def _activate(self, pod: PodRef, epoch: int, seconds: float) -> bool:
        try:
            reached = await self.ports.pods.activate(pod, epoch, seconds)
        except (PodUnresponsiveError, PodRefusedError) as error:
            self.ports.say(f"{pod.name} has not followed yet: {error}")
            return False
        if reached > epoch:  # overtaken, unless the record is older than the pod
            latest, _ = await self.ports.records.read()
            return reached <= latest.epoch
        return reached == epoch

    async def _handle_unresponsive(
        self, record: ServingRecord, unresponsive: list[PodRef], outcome: PromotionOutcome
    ) -> tuple[ServingRecord, PromotionOutcome, str | None]:
        """One silent pod is deleted; more than one sends the promotion back, once; what then is
        still there ends it as unconfirmed.
        """
        names = ", ".join(pod.name for pod in unresponsive)
        current = record.current
        if current is None or not await self.ports.lock.held():
            raise Superseded
        if len(unresponsive) == 1 and unresponsive[0].name != "(no pod at all)":
            self.ports.say(f"{names} is silent: deleting it")
            try:
                await self.ports.pods.delete(unresponsive[0])
            except (PodUnresponsiveError, PodRefusedError) as error:
                self.ports.say(f"{names} cannot be deleted: {error}")
        elif record.previous is None or current.undo or len(unresponsive) == 1:
            return (
                record,
                "failed" if record.previous is None else "unconfirmed",
                f"not confirmed by {names} within {self.ports.deadlines.activate:g} s",
            )
        else:
            record = await self._undo(record, unresponsive)
            outcome = "failed"
        still = await self._activate_everywhere(record.epoch, self.ports.deadlines.retry)
        if still:
            return record, "unconfirmed", f"not confirmed by {', '.join(pod.name for pod in still)}"
        return (
            record,
            outcome,
            f"went back: not confirmed by {names}" if outcome == "failed" else None,
        )

    async def _undo(self, record: ServingRecord, unresponsive: list[PodRef]) -> ServingRecord:
        """One more commit, compared with our own: a new epoch with the version before."""
        latest, token = await self.ports.records.read()
        if latest.epoch != record.epoch:
            raise Superseded
        epoch = (
            max([latest.highest_epoch, *await self.pod_epochs(await self.ports.pods.list())]) + 1
        )
        back = serving_record.undo(latest, epoch, self.ports.clock.timestamp())
        self.ports.say(f"{len(unresponsive)} pods are silent: going back, epoch {epoch}")
        try:
            await write_record(self.ports.records, back, token)
        except StaleRecordError as error:
            raise Superseded from error
        await self._sync_alias(epoch)
        return back

    async def end(
        self,
        attempt: Attempt,
        outcome: PromotionOutcome,
        record: ServingRecord,
        reason: str | None = None,
        late: tuple[str, ...] = (),
    ) -> PromotionResult:
        row = "done" if outcome == "unchanged" else outcome
        reason = "already in production" if outcome == "unchanged" and reason is None else reason
        await self.ports.journal.write(replace(attempt, outcome=row, reason=reason))
        return PromotionResult(
            outcome, record.epoch, record.current.version if record.current else None, reason, late
        )

    async def pod_epochs(self, pods: Sequence[PodRef]) -> list[int]:
        async def ask(pod: PodRef) -> int:
            try:
                return await self.ports.pods.epoch(pod)
            except PodUnresponsiveError:
                return 0

        return list(await asyncio.gather(*(ask(pod) for pod in pods)))


async def write_record(records: Records, wanted: ServingRecord, token: Any) -> Any:
    """Write by one compare-and-set; a lost answer is settled by reading the record again.

    Returns the new token. Raises StaleRecordError, StoreDownError.
    """
    while True:
        try:
            return await records.compare_and_set(wanted, token)
        except (StaleRecordError, UnknownWriteError) as error:
            record, seen = await records.read()
            if record == wanted:
                return seen
            if seen != token:
                raise StaleRecordError("the record has moved on") from error


async def sync_alias(records: Records, aliases: Aliases, epoch: int) -> tuple[str, ...]:
    """Writes the alias and looks at the record again, until both agree; then notes it.

    Raises Overtaken when the record is no longer at `epoch`.

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
            if (
                latest.epoch == record.epoch
                and await aliases.get("production") == record.current.version
            ):
                break
        if latest.alias_epoch < latest.epoch or latest.alias_moved:
            await records.compare_and_set(serving_record.alias_synced(latest, latest.epoch), token)
    except (StoreDownError, StaleRecordError, UnknownWriteError):
        return ("alias",)
    if latest.epoch != epoch:
        raise Superseded
    return ()
