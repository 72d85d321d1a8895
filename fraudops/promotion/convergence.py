"""Steps after the commit of an act; all of them are idempotent.

They activate every pod, handle pods that do not follow, and write the aliases.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from fraudops.errors import FraudopsError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import commit_undo, decide_undo
from fraudops.promotion.mirror import AliasMirror
from fraudops.promotion.patience import (
    TRIES,
    Superseded,
    list_pods,
    read_record,
    until,
    write_record,
)
from fraudops.promotion.ports import (
    PodRef,
    PromotionPorts,
    StaleRecordError,
)
from fraudops.promotion.preparation import QUIET_SECONDS, pod_epochs
from fraudops.promotion.serving_record import ServingRecord

# The longest pause between two rounds of calls, in pauses.
LONGEST_PAUSE = 5
# Stand for the pods when none runs although some are wanted, and when the API lists none.
NONE_RUNS = "no pod of the inference service runs"
NO_POD = PodRef("no pod", ready=False, lost="none runs")
UNLISTED = PodRef("every pod", ready=False, lost="the Kubernetes API does not list them")


@dataclass(frozen=True)
class Ending:
    """How an act ended: its row, the record then, and what the reconciler still has to write."""

    attempt: Attempt
    record: ServingRecord
    late: tuple[str, ...] = ()


class Convergence:
    """The steps of one promoter after its commit."""

    def __init__(self, ports: PromotionPorts, mirror: AliasMirror | None = None) -> None:
        self.ports, self.mirror = ports, mirror or AliasMirror(ports)
        self._said = set[str]()

    async def finish(self, attempt: Attempt, record: ServingRecord) -> Ending:
        """Activate every pod at the epoch of the record. Return how the act ended.

        `attempt.outcome` is the outcome if every pod follows. Only a promotion that has reported no
        outcome may be undone. Every other act ends as `unconfirmed` and names the pods that are
        behind. Raises Superseded when the record belongs to a later act.
        """
        behind = await self._activate_everywhere(record.epoch, self.ports.deadlines.activate)
        ending = Ending(attempt, record)
        if behind:
            ending = await self._handle_behind(attempt, record, behind)
        return await self._mirror(ending)

    async def look(self, attempt: Attempt, record: ServingRecord) -> Ending:
        """Report whether every pod serves what the record names, without changing anything.

        The pods are called to read the record, which they also do every two seconds. Raises
        Superseded when the record belongs to a later act.
        """
        behind = await self._activate_everywhere(record.epoch, self.ports.deadlines.activate)
        return await self._mirror(Ending(_unconfirmed(attempt, behind), record))

    async def _mirror(self, ending: Ending) -> Ending:
        """Write the aliases, and check that the record is still at its epoch. Raises Superseded.

        The pods come first, because a registry that does not answer takes seconds.
        """
        ending = replace(ending, late=await self.mirror.sync(ending.record.epoch))
        try:
            latest, _ = await read_record(self.ports)
        except FraudopsError as error:
            reason = f"the serving record cannot be read again: {error}"
            return replace(ending, attempt=_doubted(ending.attempt, reason, ending.attempt.behind))
        if latest.epoch != ending.record.epoch:
            raise Superseded
        return ending

    async def _activate_everywhere(self, epoch: int, seconds: float) -> list[PodRef]:
        """Make every pod that exists after the commit read the record.

        Return the pods that neither follow nor go within the time. A pod that has never run holds
        no connection, and has no model before it has read the record. A restarting pod has one.
        The API may show late that a pod runs, so a starting pod gets the time for one read.
        """
        soon = self.ports.clock.now() + self.ports.deadlines.starting
        end = self.ports.clock.now() + seconds
        followed: set[str] = set()
        noted = self.ports.clock.now()
        behind = [UNLISTED]
        for rounds in itertools.count(1):
            asked = self.ports.clock.now()
            try:
                listed = await list_pods(self.ports, end)
                pods = [pod for pod in listed if pod.running or pod.restarting]
                if not pods:
                    wanted = await until(self.ports, end, self.ports.pods.desired_replicas)
                    behind = [NO_POD] if wanted else []
                else:
                    behind = await self._activate_all(pods, followed, epoch, end)
            except FraudopsError as error:
                self.ports.say(f"the pods cannot be listed: {error}")
                break
            now = self.ports.clock.now()
            awaited = behind or [pod for pod in listed if pod.is_starting and asked < soon]
            if not awaited or now >= end:
                break
            if behind and now - noted >= QUIET_SECONDS:
                self.ports.say(f"waiting for {', '.join(map(str, behind))}")
                noted = now
            # Do not call a pod that refuses immediately five times a second until the deadline.
            await self.ports.clock.sleep(self.ports.deadlines.pause * min(rounds, LONGEST_PAUSE))
        return behind

    async def _activate_all(
        self, pods: Sequence[PodRef], followed: set[str], epoch: int, end: float
    ) -> list[PodRef]:
        """Call the pods that have not followed yet; return those that still have not."""
        waiting = [pod for pod in pods if pod.name not in followed]
        seconds = max(end - self.ports.clock.now(), 0.1)
        reached = await asyncio.gather(*(self._activate(pod, epoch, seconds) for pod in waiting))
        followed.update(pod.name for pod, there in zip(waiting, reached, strict=True) if there)
        return [pod for pod in waiting if pod.name not in followed]

    async def _activate(self, pod: PodRef, epoch: int, seconds: float) -> bool:
        try:
            reached = await self.ports.pods.activate(pod, epoch, seconds)
        except FraudopsError as error:
            self._say_once(f"{pod.name} has not followed yet: {error}")
            return False
        if reached > epoch:  # overtaken, unless the record is older than the pod
            try:
                latest, _ = await self.ports.records.read()
            except FraudopsError:
                return False
            return reached <= latest.epoch
        return reached == epoch

    def _say_once(self, line: str) -> None:
        """Say the line unless it has been said. A pod often gives one reason for many calls."""
        if line not in self._said:
            self._said.add(line)
            self.ports.say(line)

    async def _handle_behind(
        self, attempt: Attempt, record: ServingRecord, behind: list[PodRef]
    ) -> Ending:
        """Delete the one pod behind that takes connections, or undo the act if there are more.

        A pod that takes no new connections cannot trigger the undo. It may still answer on kept
        connections by the old version, so the outcome is `unconfirmed` until it follows or is
        gone.
        """
        if not await self.ports.lock.held():
            # The next holder of the lock may be at work, so this promoter changes nothing any more.
            # The next try takes the lock again and finishes.
            return Ending(_unconfirmed(attempt, behind), record)
        counting = [pod for pod in behind if pod.takes_connections]
        retry = any(pod.terminating and pod.lost is None for pod in behind)
        if len(counting) == 1:
            retry = await self._delete(counting[0]) or retry
        elif len(counting) > 1 and decide_undo(record, attempt.request):
            return await self._undo(attempt, record, behind)
        if retry:
            behind = await self._activate_everywhere(record.epoch, self.ports.deadlines.retry)
        return Ending(_unconfirmed(attempt, behind), record)

    async def _delete(self, pod: PodRef) -> bool:
        """Request the end of a pod that is behind; return whether that was possible."""
        self.ports.say(f"{pod.name} does not follow: deleting it")
        try:
            await self.ports.pods.delete(pod)
        except FraudopsError as error:
            self.ports.say(f"{pod.name} cannot be deleted: {error}")
            return False
        return True

    async def _undo(self, attempt: Attempt, record: ServingRecord, behind: list[PodRef]) -> Ending:
        """Commit a new epoch with the version from before, and activate it.

        Raises Superseded, and StoreDownError or UnknownWriteError when the record cannot be read
        or written. The next try then decides again.
        """
        for _ in range(TRIES):
            try:
                ending = await self._commit_undo(attempt, record, behind)
            except StaleRecordError:
                self.ports.say("the serving record has changed: deciding again about the undo")
                await self.ports.clock.sleep(self.ports.deadlines.pause)
                continue
            if ending.record.epoch == record.epoch:
                return ending
            still = await self._activate_everywhere(ending.record.epoch, self.ports.deadlines.retry)
            return replace(ending, attempt=_unconfirmed(ending.attempt, still))
        return Ending(_unconfirmed(attempt, behind), record)

    async def _commit_undo(
        self, attempt: Attempt, record: ServingRecord, behind: list[PodRef]
    ) -> Ending:
        """Decide the undo from one read of the record, and write it on the token of that read.

        If no undo is allowed any more, the act ends as `unconfirmed`. Raises StaleRecordError when
        the record has changed since the read, and as `_undo` does.
        """
        end = self.ports.clock.now() + self.ports.deadlines.retry
        latest, token = await until(self.ports, end, self.ports.records.read)
        if latest.epoch != record.epoch:
            raise Superseded
        undo = decide_undo(latest, attempt.request)
        # A reservation is that of another act, whose promoter has the lock.
        if undo is None or latest.reserved or not await self.ports.lock.held():
            return Ending(_unconfirmed(attempt, behind), latest)
        epochs = await pod_epochs(self.ports, await list_pods(self.ports, end))
        epoch = max([latest.highest_epoch, *epochs]) + 1
        names, version = _names(behind), undo.back.version
        reason = f"not confirmed by {names}, so version {version} serves again"
        pods = tuple(pod.name for pod in behind)
        failed = msgspec.structs.replace(attempt, outcome="failed", reason=reason, behind=pods)
        undone = commit_undo(latest, undo, epoch, self.ports.clock.timestamp(), failed)
        self.ports.say(f"undoing the promotion: {reason}")
        await write_record(self.ports, undone, token)
        return Ending(failed, undone)


def _unconfirmed(attempt: Attempt, behind: Sequence[PodRef]) -> Attempt:
    """Return the attempt as it is when no pod is behind, or else as `unconfirmed`.

    The reason that the attempt has already, such as why it was undone, stays in it.
    """
    if not behind:
        return attempt
    if behind == [NO_POD]:
        return _doubted(attempt, NONE_RUNS)
    names = tuple(pod.name for pod in behind)
    return _doubted(attempt, f"not confirmed by {_names(behind)}", names)


def _doubted(attempt: Attempt, reason: str, behind: tuple[str, ...] = ()) -> Attempt:
    reason = f"{attempt.reason}; {reason}" if attempt.reason else reason
    return msgspec.structs.replace(attempt, outcome="unconfirmed", reason=reason, behind=behind)


def _names(pods: Sequence[PodRef]) -> str:
    return ", ".join(map(str, pods))
