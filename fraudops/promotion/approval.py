"""Four eyes: a promotion waits until another user has approved its Job."""

from collections.abc import Mapping
from typing import Protocol

from fraudops.errors import RefusedError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.ports import Clock
from fraudops.promotion.requester import SYSTEM

REQUESTED_BY = "fraudops.io/requested-by"
APPROVED_BY = "fraudops.io/approved-by"
PAUSE_SECONDS = 2.0


class Approvals(Protocol):
    """The approval of one Job."""

    @property
    def job(self) -> str:
        """The name of the Job."""
        ...

    async def annotations(self) -> Mapping[str, str]:
        """Return the annotations of the Job. Raises StoreDownError, FraudopsError."""
        ...


def approver_in(annotations: Mapping[str, str]) -> str | None:
    """Return who approved the Job; None if it has no approval that counts.

    The admission policy refuses a false approval when it is written. This function checks it
    again, because the Job may be older than the policy.
    """
    approver = annotations.get(APPROVED_BY, "")
    counts = (
        approver
        and approver != annotations.get(REQUESTED_BY)
        # A user may often act as a ServiceAccount of the namespace, so that is no second person.
        and not approver.startswith(SYSTEM)
    )
    return approver if counts else None


async def wait_for_approval(approvals: Approvals, seconds: float, clock: Clock, say: Say) -> str:
    """Wait for the approval and return the approver's name.

    The wait holds no lock, so a rollback can pass it. Raises RefusedError after `seconds`.
    """
    end = clock.now() + seconds
    said = ""
    while True:
        try:
            if approver := approver_in(await approvals.annotations()):
                say(f"approved by {approver}")
                return approver
            text = f"waiting up to {seconds:g} s for another user: fraudops approve {approvals.job}"
        except StoreDownError as error:
            text = f"waiting for an approval: {error}"
        if text != said:
            said = text
            say(text)
        if clock.now() >= end:
            raise RefusedError(
                f"no other user approved the promotion within {seconds:g} s: start it again, and "
                "have another user run the `fraudops approve` that it prints"
            )
        await clock.sleep(PAUSE_SECONDS)
