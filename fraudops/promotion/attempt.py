"""One promotion, rollback or undo as the table `promotions` keeps it: one row for each request."""

from typing import Literal

from fraudops.extensible import Extensible

Act = Literal["promote", "rollback", "undo"]
Strategy = Literal["broadcast", "rollout"]
Outcome = Literal["started", "done", "unchanged", "refused", "failed", "overtaken", "unconfirmed"]


class Attempt(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """One row of `promotions`. All tries of one request share it.

    A try is one run of the program. `at` and `finished_at` are times of day in ISO 8601 UTC.
    `reason` says why the act ended as it did, `waiver_reason` why its gates were waived. `behind`
    names the pods that had not followed. An outcome without `finished_at` is provisional: no
    promoter has reported it. `act`, `strategy` and `outcome` are text, because a later release may
    write other words into the record.
    """

    request: str
    requested_by: str
    at: str
    act: Act | str = "promote"
    strategy: Strategy | str = "broadcast"
    version: str = ""
    digest: str = ""
    from_version: str | None = None
    epoch: int | None = None
    outcome: Outcome | str = "started"
    reason: str | None = None
    waiver_reason: str | None = None
    behind: tuple[str, ...] = ()
    finished_at: str | None = None

    @property
    def is_provisional(self) -> bool:
        """Whether the serving record says how the act ended, but its promoter has not."""
        return self.outcome != "started" and self.finished_at is None
