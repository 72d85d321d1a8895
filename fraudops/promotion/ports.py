"""What a promotion needs of the world around it.

On one machine, in the cluster and in the simulation the same protocol runs over these.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.serving_record import ServingRecord, ServingTarget, Strategy


class StaleRecordError(FraudopsError):
    """The record is no longer the one that the token stands for: somebody else has written it."""


class UnknownWriteError(FraudopsError):
    """The store did not answer a write: it may have happened or not.

    Not a StoreDownError, after which nothing has; but to try again is right.
    """

    exit_code = 75


class PodRefusedError(FraudopsError):
    """The pod answered and said no; the message is its reason."""


class PodUnresponsiveError(FraudopsError):
    """The pod did not answer in time, or answered nothing of use."""


class LockBusyError(StoreDownError):
    """Another promotion holds the lock; `holder` says which one."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"another promotion has the lock ({holder}); try again when it has ended")
        self.holder = holder


@dataclass(frozen=True)
class PodRef:
    """One pod of the Service.

    `name` is unique over time: a pod that is replaced comes back under another name.
    `running`: its inference container runs. If not, the pod holds no connection.
    `terminating`: its deletion has been requested.
    `lost`: why no new connection reaches it, although its object still exists.
    """

    name: str
    ready: bool
    running: bool = True
    terminating: bool = False
    lost: str | None = None


@dataclass(frozen=True)
class PromotionCandidate:
    """A version that the gate let through, with what let it through.

    `sample`: it was trained on the packaged sample.
    """

    version: str
    digest: str
    schema_fingerprint: str
    verdict: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None
    sample: bool = False


@dataclass(frozen=True)
class Attempt:
    """One row of `promotions`: all tries of one request share it."""

    request: str
    requested_by: str
    strategy: Strategy
    at: str
    version: str = ""
    digest: str = ""
    from_version: str | None = None
    epoch: int | None = None
    outcome: str = "started"
    reason: str | None = None


class Records(Protocol):
    """The store of the serving record. Reads are never stale."""

    async def read(self) -> tuple[ServingRecord, Any]:
        """The record and the token of exactly this state. Raises StoreDownError."""
        ...

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        """Writes if the record is still the token's and returns the new token.

        Raises StaleRecordError, UnknownWriteError, StoreDownError.
        """
        ...


class Lock(Protocol):
    """Serialises promoters as a convenience.

    Safety depends only on the record's compare-and-set.
    """

    def hold(self, holder: str) -> AbstractAsyncContextManager[None]:
        """Waits for the lock. Raises StoreDownError naming who has it when that takes too long."""
        ...

    async def held(self) -> bool: ...


class Aliases(Protocol):
    """The registry's aliases, which mirror the record."""

    async def get(self, alias: str) -> str | None: ...

    async def set(self, alias: str, version: str) -> None: ...


class Pods(Protocol):
    """The pods of the Service.

    Each call may raise PodUnresponsiveError; prepare and activate also PodRefusedError.
    """

    async def list(self) -> Sequence[PodRef]:
        """All pods that exist: ready, unready and terminating alike."""
        ...

    async def desired_replicas(self) -> int:
        """How many pods there should be."""
        ...

    async def epoch(self, pod: PodRef) -> int:
        """The epoch that every worker of the pod has reached."""
        ...

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        """Loads, verifies and warms the version beside the one that serves; it is dropped again
        after `seconds` plus a grace.
        """
        ...

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        """Make the pod read the record; return the epoch that all its workers then have."""
        ...

    async def drop(self, pod: PodRef, target: ServingTarget) -> None: ...

    async def delete(self, pod: PodRef) -> None:
        """Asks for the pod's graceful end; it is gone only when it is no longer listed."""
        ...


class Rollouts(Protocol):
    """The pod template's annotation, which newborn pods obey while the record's reservation says
    the same.
    """

    async def annotate(self, target: ServingTarget) -> None:
        """Replaces what the annotation said, compared with what it was.

        Raises StaleRecordError, StoreDownError, UnknownWriteError.
        """
        ...

    async def undo(self, epoch: int) -> None:
        """Takes the annotation of this epoch away again; another one is left alone."""
        ...


class Journal(Protocol):
    """The `promotions` rows. Never raises: a row that cannot be written now is written later."""

    async def write(self, attempt: Attempt) -> None: ...


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
    `retry`: a second activation, after an unresponsive pod was deleted or after an undo.
    `rollout`: until the new pods of a rollout are ready.
    `pause`: between two looks at the pods.
    """

    prepare: float = 60.0
    activate: float = 30.0
    retry: float = 45.0
    rollout: float = 600.0
    pause: float = 0.2


@dataclass(frozen=True)
class PromotionPorts:
    """Everything that a promotion reads and writes. Without `rollouts` it knows broadcasts only."""

    records: Records
    lock: Lock
    aliases: Aliases
    pods: Pods
    journal: Journal
    clock: Clock
    rollouts: Rollouts | None = None
    deadlines: Deadlines = Deadlines()
    say: Say = lambda _: None
