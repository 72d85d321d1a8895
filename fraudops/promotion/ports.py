"""What a promotion needs from its environment.

The same protocol runs on one machine, in the cluster and in the simulation.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.serving_record import ServingRecord, ServingTarget


class StaleRecordError(FraudopsError):
    """The record has changed since the read that returned the token."""


class UnknownWriteError(FraudopsError):
    """The store did not answer a write, so the write may have happened; write again or read.

    After a StoreDownError nothing has been written.
    """

    exit_code = 75


class PodRefusedError(FraudopsError):
    """The pod refused for good; the message is its reason."""


class PodUnresponsiveError(FraudopsError):
    """The pod did not answer in time, or cannot answer now; the same call may succeed later."""


class LockBusyError(StoreDownError):
    """Another promotion holds the lock; `holder` says which one."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"another promotion has the lock ({holder}); try again when it has ended")
        self.holder = holder


@dataclass(frozen=True)
class PodRef:
    """One pod of the Service, as the Kubernetes API describes it.

    `name` is unique over time: a replaced pod gets another name. A pod that is not `running` has
    no process, so it holds no connection. `restarting`: its process has ended, and Kubernetes
    starts it again with the state that it had. `lost` says why no new connection reaches the pod
    even if its object says otherwise, for example because its node does not answer.
    """

    name: str
    ready: bool
    running: bool = True
    terminating: bool = False
    lost: str | None = None
    restarting: bool = False

    @property
    def is_starting(self) -> bool:
        """Whether the pod may run already although the API does not show it yet."""
        gone = self.running or self.restarting or self.terminating
        return not gone and self.lost is None

    @property
    def takes_connections(self) -> bool:
        """Whether the Service sends new connections to this pod."""
        return self.ready and not self.terminating and self.lost is None

    def __str__(self) -> str:
        if self.lost:
            return f"{self.name} ({self.lost})"
        if self.terminating:
            return f"{self.name} (terminating)"
        if self.restarting:
            return f"{self.name} (its container restarts)"
        return self.name if self.ready else f"{self.name} (not ready)"


class Records(Protocol):
    """The store of the serving record. Reads are never stale."""

    async def read(self) -> tuple[ServingRecord, Any]:
        """Return the record and the token of exactly this state. Raises StoreDownError."""
        ...

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        """Write the record if the token is still valid, and return the new token.

        Raises StaleRecordError, UnknownWriteError, StoreDownError, NewerFormatError.
        """
        ...


class Lock(Protocol):
    """Lets one act run at a time, as a convenience.

    Safety depends only on the record's compare-and-set.
    """

    def hold(self, holder: str) -> AbstractAsyncContextManager[None]:
        """Wait for the lock. Raises LockBusyError when another holder keeps it too long."""
        ...

    async def held(self) -> bool:
        """Whether this holder still has the lock, by its own clock."""
        ...


class Aliases(Protocol):
    """The registry's aliases, which mirror the record."""

    async def get(self, alias: str) -> str | None: ...

    async def set(self, alias: str, version: str) -> None:
        """Set the alias. Raises UnknownVersionError for a version that no longer exists."""
        ...

    async def drop(self, alias: str) -> None:
        """Remove the alias; nothing changes when it is missing."""
        ...

    async def exists(self, version: str) -> bool:
        """Whether the registry still has the version."""
        ...


class Pods(Protocol):
    """The pods of the Service.

    A call to one pod may raise PodUnresponsiveError; prepare, activate and delete also
    PodRefusedError. `list` and `desired_replicas` may raise StoreDownError.
    """

    async def list(self) -> Sequence[PodRef]:
        """Return all pods that exist: ready ones, unready ones and terminating ones."""
        ...

    async def desired_replicas(self) -> int:
        """Return how many pods the Deployment wants."""
        ...

    async def epoch(self, pod: PodRef) -> int:
        """Return the highest epoch that a worker of the pod has seen."""
        ...

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        """Make the pod load, verify and warm the version next to the one that it serves.

        The pod drops it after `seconds` and a grace period.
        """
        ...

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        """Make the pod read the record; return the epoch that all its workers then have."""
        ...

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        """Make the pod drop a prepared version."""
        ...

    async def delete(self, pod: PodRef) -> None:
        """Request the pod's graceful end. The pod is gone only when it is no longer listed."""
        ...


class Rollouts(Protocol):
    """The pod template's annotation, which a new pod follows while the record reserves the same."""

    async def annotate(self, target: ServingTarget) -> None:
        """Replace the annotation that this call has read.

        Raises StaleRecordError, StoreDownError, UnknownWriteError.
        """
        ...

    async def undo(self, epoch: int) -> None:
        """Remove the annotation of this epoch; another one stays."""
        ...

    async def annotated(self) -> ServingTarget | None:
        """Return what the annotation names, or None."""
        ...


class Journal(Protocol):
    """The table `promotions`."""

    async def write(self, attempt: Attempt) -> None:
        """Write the row of the attempt's request.

        It replaces the stored row of the request if `replaces` says so. Raises StoreDownError.
        """
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds of a clock that never steps back."""
        ...

    def timestamp(self) -> str:
        """The time of day, ISO 8601 UTC."""
        ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Deadlines:
    """Timeouts in seconds.

    `prepare`: until every pod has prepared the version.
    `activate`: until every pod has activated it.
    `retry`: until every pod has activated it after a pod behind was deleted, or after an undo. Also
    until the pods of a refused rollout are gone. It is the setting `second_seconds`.
    `rollout`: until the new pods of a rollout are ready.
    `starting`: until a pod whose start the API does not show yet has read the record.
    `pause`: between two looks at the pods, and between two tries of a write.
    """

    prepare: float = 60.0
    activate: float = 30.0
    retry: float = 45.0
    rollout: float = 600.0
    starting: float = 3.0
    pause: float = 0.2


@dataclass(frozen=True)
class PromotionPorts:
    """Everything that a promotion reads and writes.

    Without `rollouts` (on one machine) a rollout replaces the model inside the service. `adopt`
    gives a record of release 0.2.0 new labels in the cluster; its caller has the lock.
    """

    records: Records
    lock: Lock
    aliases: Aliases
    pods: Pods
    journal: Journal
    clock: Clock
    rollouts: Rollouts | None = None
    adopt: Callable[[], Awaitable[None]] | None = None
    deadlines: Deadlines = Deadlines()
    say: Say = lambda _: None
