"""Steps before a commit: prepare every pod, or roll out new ones.

If a step fails, nothing that a client sees has changed.
"""

import asyncio
from collections.abc import Sequence

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.patience import list_pods, persist, until, wait_for_all
from fraudops.promotion.ports import (
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    PromotionPorts,
    StaleRecordError,
)
from fraudops.promotion.serving_record import ServingTarget

Asked = dict[str, "asyncio.Task[str | None]"]
# Seconds between two progress lines about the same pods.
QUIET_SECONDS = 10.0
SILENT = "it has not answered yet"


class Preparation:
    """The steps of one promoter before its commit."""

    def __init__(self, ports: PromotionPorts) -> None:
        self.ports = ports
        # Why each pod has not prepared the version yet.
        self._last: dict[str, str] = {}

    async def prepare(self, target: ServingTarget) -> str | None:
        """Make every ready pod prepare the version. Return None, or the reason of a refusal.

        A ready pod has a veto: its refusal, or its silence until the deadline, ends the act. The
        promoter also asks pods that take no new connections, but does not wait for them. They
        have a veto only while no pod is ready, as before a first promotion.
        """
        end = self.ports.clock.now() + self.ports.deadlines.prepare
        asked: Asked = {}
        try:
            return await self._prepare(target, end, asked)
        except FraudopsError as error:
            return str(error)
        finally:
            for task in asked.values():
                task.cancel()

    async def _prepare(self, target: ServingTarget, end: float, asked: Asked) -> str | None:
        """Call the pods until every pod of the latest list that has a veto has prepared."""
        noted = self.ports.clock.now()
        while True:
            pods = await list_pods(self.ports, end)
            for pod in pods:
                if pod.running and pod.lost is None and pod.name not in asked:
                    self._last[pod.name] = SILENT
                    asked[pod.name] = asyncio.ensure_future(self._ask(pod, target, end))
            voters = voters_of(pods)
            answered = [pod for pod in voters if asked[pod.name].done()]
            refusals = [reason for pod in answered if (reason := asked[pod.name].result())]
            if refusals:
                return refusals[0]
            waiting = [pod for pod in voters if pod not in answered]
            if not waiting and (voters or await self._wants_no_pod(end)):
                return None
            tasks = [asked[pod.name] for pod in waiting]
            if self.ports.clock.now() >= end:
                await wait_for_all(self.ports, tasks, self.ports.deadlines.pause * 5)
                reasons = [reason for task in tasks if task.done() and (reason := task.result())]
                return reasons[0] if reasons else self._too_late(pods, waiting)
            if self.ports.clock.now() - noted >= QUIET_SECONDS:
                self._note(waiting)
                noted = self.ports.clock.now()
            if tasks:
                await wait_for_all(self.ports, tasks, self.ports.deadlines.pause * 5)
            else:  # no task ends this wait early
                await self.ports.clock.sleep(self.ports.deadlines.pause * 5)

    async def _wants_no_pod(self, end: float) -> bool:
        return await until(self.ports, end, self.ports.pods.desired_replicas) == 0

    def _note(self, waiting: Sequence[PodRef]) -> None:
        # A pod whose call has just begun still has the reason SILENT.
        names = "; ".join(f"{pod}: {self._last[pod.name]}" for pod in waiting)
        self.ports.say(f"waiting for {names or 'a pod that runs'}")

    def _too_late(self, pods: Sequence[PodRef], waiting: Sequence[PodRef]) -> str:
        seconds = f"{self.ports.deadlines.prepare:g} s"
        if waiting:
            return f"pod {waiting[0].name} was not prepared within {seconds}"
        if pods:
            names = ", ".join(map(str, pods))
            return f"no pod can be prepared within {seconds}: {names}"
        return "there is no pod to prepare; is the inference service running?"

    async def _ask(self, pod: PodRef, target: ServingTarget, end: float) -> str | None:
        """Call the pod until it answers or `end` has passed. Return None, or why it refuses.

        A pod that does not answer, or that cannot answer now, may do so at the next call.
        """
        while (seconds := end - self.ports.clock.now()) > 0:
            try:
                await self.ports.pods.prepare(pod, target, seconds)
            except PodRefusedError as error:
                return f"pod {pod.name}: {error}"
            except PodUnresponsiveError as error:
                self._last[pod.name] = str(error)
                await self.ports.clock.sleep(self.ports.deadlines.pause * 5)
            else:
                self.ports.say(f"prepared on {pod.name}")
                return None
        seconds = self.ports.deadlines.prepare
        return f"pod {pod.name} was not prepared within {seconds:g} s: {self._last[pod.name]}"

    async def drop(self, target: ServingTarget) -> None:
        """Make every pod drop the version that was not committed.

        A pod that does not answer drops the version at the deadline that the prepare carried.
        """
        try:
            pods = await self.ports.pods.list()
        except StoreDownError as error:
            self.ports.say(f"pods drop version {target.version} at their deadline: {error}")
            return
        await asyncio.gather(*(self._drop(pod, target) for pod in pods if pod.running))

    async def _drop(self, pod: PodRef, target: ServingTarget) -> None:
        try:
            await self.ports.pods.drop(pod, target)
        except (PodUnresponsiveError, PodRefusedError):
            self.ports.say(
                f"{pod.name} did not answer; it drops version {target.version} at its deadline"
            )

    async def roll_out(self, target: ServingTarget) -> str | None:
        """Replace the pods by new ones that serve the version.

        Return None when as many new pods as wanted are ready, or the reason why not. The old pods
        answer until then.
        """
        rollouts = self.ports.rollouts
        assert rollouts is not None
        try:
            await persist(self.ports, lambda: rollouts.annotate(target))
            return await self._wait_for_new_pods(target)
        except FraudopsError as error:
            return str(error)

    async def _wait_for_new_pods(self, target: ServingTarget) -> str | None:
        end = self.ports.clock.now() + self.ports.deadlines.rollout
        noted = (-1, float("-inf"))
        while True:
            pods = await list_pods(self.ports, end)
            ready = [pod for pod in pods if pod.takes_connections and pod.running]
            epochs = await pod_epochs(self.ports, ready)
            others = [pod for pod, at in zip(ready, epochs, strict=True) if at != target.epoch]
            unready = [pod for pod in pods if pod not in ready and not pod.terminating]
            new = len(ready) - len(others)
            wanted = await until(self.ports, end, self.ports.pods.desired_replicas)
            if new >= wanted:
                return None
            awaited = _awaited(unready, others)
            if self.ports.clock.now() >= end:
                return (
                    f"after {self.ports.deadlines.rollout:g} s only {new} of {wanted} new pods "
                    f"are ready with version {target.version}; waited for {awaited}"
                )
            if new != noted[0] or self.ports.clock.now() - noted[1] >= QUIET_SECONDS:
                self.ports.say(f"{new} of {wanted} new pods are ready; waiting for {awaited}")
                noted = (new, self.ports.clock.now())
            await self.ports.clock.sleep(self.ports.deadlines.pause * 5)

    async def take_back(self, target: ServingTarget, by_rollout: bool) -> bool:
        """Take back the rollout or the prepare of an act that was not committed.

        Return False if the pod template still names the version. The reservation must stay then:
        it is how the next holder of the lock finds the rollout.
        """
        taken_back = True
        if by_rollout and (rollouts := self.ports.rollouts):
            try:
                await persist(self.ports, lambda: rollouts.undo(target.epoch))
            except StaleRecordError:
                self.ports.say("the pod template has changed in the meantime and stays as it is")
            except StoreDownError as error:
                self.ports.say(f"the next holder of the lock takes the rollout back: {error}")
                taken_back = False
        await self.drop(target)
        return taken_back

    async def wait_until_replaced(self, target: ServingTarget) -> tuple[str, ...]:
        """Wait until no pod serves the version of a rollout that was taken back.

        After `deadlines.retry`, return the names of the pods that may still serve it. A pod that
        answers no epoch is one of them.
        """
        end = self.ports.clock.now() + self.ports.deadlines.retry
        noted = self.ports.clock.now()
        serving = set[str]()
        while True:
            try:
                pods = await list_pods(self.ports, end)
            except StoreDownError as error:
                self.ports.say(f"the pods cannot be listed: {error}")
                return tuple(sorted(serving)) or ("every pod",)
            unsure = await self._note_epochs(pods, target.epoch, serving)
            waiting = [pod for pod in pods if pod.name in serving or pod in unsure]
            now = self.ports.clock.now()
            if not waiting or now >= end:
                return tuple(pod.name for pod in waiting)
            if now - noted >= QUIET_SECONDS:
                names = ", ".join(map(str, waiting))
                self.ports.say(f"waiting for Kubernetes to replace {names}")
                noted = now
            await self.ports.clock.sleep(self.ports.deadlines.pause * 5)

    async def _note_epochs(
        self, pods: Sequence[PodRef], epoch: int, serving: set[str]
    ) -> list[PodRef]:
        """Note which pods are at the epoch. Return the pods whose epoch is unknown.

        A pod that falls silent while it ends may still answer clients, so it stays noted. A pod
        that starts has an unknown epoch, because the API may show late that it runs.
        """
        asked = [pod for pod in pods if pod.running]
        unsure = [pod for pod in pods if not (pod.running or pod.restarting or pod.lost)]
        for pod, reached in zip(asked, await pod_epochs(self.ports, asked), strict=True):
            if reached == epoch:
                serving.add(pod.name)
            elif reached:
                serving.discard(pod.name)
            elif pod.lost is None:
                unsure.append(pod)
        return unsure


def _awaited(unready: Sequence[PodRef], others: Sequence[PodRef]) -> str:
    """Name the pods that a rollout waits for. `others` are ready and serve another version."""
    if unready:
        return ", ".join(map(str, unready))
    if others:
        return f"{', '.join(map(str, others))}, serving another version"
    return "Kubernetes to create a pod"


def voters_of(pods: Sequence[PodRef]) -> list[PodRef]:
    """Return the pods that have a veto: the ready ones, or all that can answer if none is ready."""
    able = [pod for pod in pods if pod.running and pod.lost is None and not pod.terminating]
    return [pod for pod in able if pod.ready] or able


async def pod_epochs(ports: PromotionPorts, pods: Sequence[PodRef]) -> list[int]:
    """Return the highest epoch that each pod has seen; 0 for a pod that does not answer."""

    async def ask(pod: PodRef) -> int:
        try:
            return await ports.pods.epoch(pod)
        except (PodUnresponsiveError, PodRefusedError):
            return 0

    return list(await asyncio.gather(*(ask(pod) for pod in pods if pod.running)))
