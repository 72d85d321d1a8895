"""Who asks for a promotion or a rollback, and whether another user has approved it."""

from dataclasses import replace

from fraudops.errors import RefusedError, SettingsError
from fraudops.promotion.approval import wait_for_approval
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote, Rollback
from fraudops.promotion.request import PromotionRequest
from fraudops.promotion.requester import Requester, requester_of
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import LATEST
from fraudops.settings import PromoteJobSettings
from fraudops.wiring import PromotionContext
from jobs.runner import say, user_name


def requester(settings: PromoteJobSettings) -> Requester:
    """Return who asked: the name on the Job, or else the operating system's user."""
    return requester_of(settings.requested_by, settings.promotion.authenticated, user_name())


def check_names_a_version(settings: PromoteJobSettings, version: str) -> None:
    """Raise SettingsError if the promotion needs an approval and names no number."""
    if settings.promotion.approval_required and version == LATEST:
        raise SettingsError(
            "a promotion that another user approves needs the number of its version: what "
            "`--version latest` means may change after the approval"
        )


def check_strategy(settings: PromoteJobSettings, strategy: Strategy) -> None:
    """Raise SettingsError if this installation does not allow the strategy."""
    if strategy not in settings.promotion.strategies:
        raise SettingsError(forbidden(strategy))


def forbidden(strategy: Strategy) -> str:
    """Return the sentence that names the setting which does not allow the strategy."""
    return (
        f"{strategy} is not allowed here: add it to promotion.strategies of the chart "
        "(FRAUDOPS_PROMOTION__STRATEGIES)"
    )


async def approved(
    context: PromotionContext, settings: PromoteJobSettings, request: PromotionRequest
) -> PromotionRequest:
    """Return the request with its approver, or one that is refused because it has none.

    Raises SettingsError if an approval is required and no Job is known that could get it.
    """
    limits = settings.promotion
    if not limits.approval_required:
        return request
    if context.approvals is None:
        raise SettingsError(
            "promotion.approval.required is set, and the approval is an annotation of a Job: "
            "promote with --on-cluster"
        )
    try:
        approver = await wait_for_approval(
            context.approvals, limits.approval_seconds, context.ports.clock, say
        )
    except RefusedError as refusal:
        return replace(request, decide=_Refusal(str(refusal)).decide)
    return replace(request, approver=approver)


class _Refusal:
    """A gate that refuses with a known reason, so that the promoter stores the row."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def decide(self, _record: ServingRecord) -> Promote | Rollback:
        raise RefusedError(self._reason)
