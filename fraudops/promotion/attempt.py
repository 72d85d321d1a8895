"""One promotion, rollback or undo as the table `promotions` keeps it: one row for each request."""

from typing import Any, Literal, Protocol

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

    `requested_by` is a user's name or `automation`. `actor` is the name that the API server or the
    operating system has for it. `authenticated` means that a policy of the cluster has compared it
    with the caller's credentials. `signer` is the id of the key that signed the verdict.
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
    actor: str | None = None
    authenticated: bool = False
    approver: str | None = None
    signer: str | None = None

    @property
    def is_provisional(self) -> bool:
        """Whether the serving record says how the act ended, but its promoter has not."""
        return self.outcome != "started" and self.finished_at is None


class StoredRow(Protocol):
    """What `replaces` compares of the row that is stored."""

    @property
    def outcome(self) -> str: ...

    @property
    def epoch(self) -> int | None: ...

    @property
    def finished_at(self) -> Any: ...


# What no try follows, once a promoter that has reserved an epoch has reported it.
FINAL = ("done", "failed", "overtaken")
# The outcomes of acts that have committed nothing.
UNCOMMITTED = ("refused", "unchanged")


def replaces(new: Attempt, stored: StoredRow) -> bool:
    """Whether a row takes the place of the stored row of the same request.

    Two tries of one request may be alive at the same time, and a row may arrive late. No time is
    compared, because the clocks of two tries may differ.
    """
    if new.outcome == "started":
        return False
    if stored.outcome == "started":
        return True
    commits = new.outcome not in UNCOMMITTED
    # A commit is later than what another try has reported without it.
    later = commits and (new.epoch or 0) > (stored.epoch or 0)
    if new.is_provisional or _is_final(stored):
        return later
    return commits or stored.outcome in UNCOMMITTED or stored.epoch is None


def _is_final(row: StoredRow) -> bool:
    """Whether no try follows what was reported. The table stores `unchanged` as `done`."""
    return bool(row.finished_at) and row.epoch is not None and row.outcome in FINAL
