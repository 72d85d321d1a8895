"""What a user asks for, and how the act ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fraudops.promotion.attempt import Act, Outcome, Strategy
from fraudops.promotion.changes import Promote, Rollback
from fraudops.promotion.serving_record import ServingRecord

Decide = Callable[[ServingRecord], Awaitable[Promote | Rollback]]


@dataclass(frozen=True)
class PromotionRequest:
    """What a user asked for. `id` is the same for all its tries.

    `decide` is the gate. It returns the act for one read of the record, or raises RefusedError
    with the reason. It must not block the event loop, which renews the lock. With `if_epoch` the
    act is refused unless the record is at exactly this epoch; 0 means that no version serves.
    `requested_by`, `actor` and `authenticated` are those of a `Requester`.
    """

    id: str
    requested_by: str
    decide: Decide
    act: Act = "promote"
    version: str = ""
    strategy: Strategy = "broadcast"
    if_epoch: int | None = None
    actor: str | None = None
    authenticated: bool = False
    approver: str | None = None


@dataclass(frozen=True)
class PromotionResult:
    """How an act ended. `epoch` and `version` are what the record says at the end.

    `late` names what the reconciler still has to write. `behind` names the pods that had not
    followed. `undone` means that the act was committed, and that its promoter undid it.
    """

    act: Act | str
    outcome: Outcome | str
    epoch: int
    version: str | None
    reason: str | None = None
    late: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    undone: bool = False
