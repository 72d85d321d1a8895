"""A promotion that another user must approve: what is refused, and when the gate decides."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from fraudops.errors import RefusedError, SettingsError
from fraudops.promotion.approval import APPROVED_BY, REQUESTED_BY
from fraudops.promotion.changes import Promote
from fraudops.promotion.local import SystemClock
from fraudops.promotion.ports import PromotionPorts
from fraudops.promotion.request import PromotionRequest
from fraudops.promotion.requester import Requester
from fraudops.promotion.serving_record import EMPTY, ModelRef, ServingRecord
from fraudops.settings import PromoteJobSettings
from fraudops.settings.groups import PromotionSettings
from fraudops.wiring import PromotionContext
from jobs.requests import approved, check_names_a_version, check_strategy, requester

CHOSEN = Promote(ModelRef(version="2", digest="d", schema_fingerprint="s"), "broadcast")


@dataclass(frozen=True)
class Approved:
    """The approval of a Job whose annotations never change."""

    found: Mapping[str, str]
    job: str = "promote-1"

    async def annotations(self) -> Mapping[str, str]:
        return self.found


def settings(required: bool, **others: Any) -> PromoteJobSettings:
    promotion = PromotionSettings(approval_required=required, approval_seconds=0.001)
    return PromoteJobSettings().model_copy(update={"promotion": promotion, **others})


def context(approvals: Approved | None) -> PromotionContext:
    # The wait reads the clock alone; no other port exists here.
    ports = cast(PromotionPorts, _Clock(SystemClock()))
    return PromotionContext(ports, cast(Any, None), cast(Any, None), approvals)


@dataclass(frozen=True)
class _Clock:
    clock: SystemClock


async def decide(_record: ServingRecord) -> Promote:
    return CHOSEN


REQUEST = PromotionRequest("job-1", "bob", decide, version="2")


async def test_without_four_eyes_a_request_stays_as_it_is() -> None:
    assert await approved(context(None), settings(False), REQUEST) == REQUEST


async def test_an_approved_request_names_its_approver_and_keeps_its_gate() -> None:
    approvals = Approved({REQUESTED_BY: "bob", APPROVED_BY: "alice"})
    request = await approved(context(approvals), settings(True), REQUEST)
    assert request == replace(REQUEST, approver="alice")


async def test_an_expired_request_is_refused_by_its_gate_so_that_it_has_a_row() -> None:
    request = await approved(context(Approved({REQUESTED_BY: "bob"})), settings(True), REQUEST)
    assert (request.approver, request.id) == (None, "job-1")
    with pytest.raises(RefusedError, match="no other user approved"):
        await request.decide(EMPTY)


async def test_an_approval_needs_a_job() -> None:
    with pytest.raises(SettingsError, match="--on-cluster"):
        await approved(context(None), settings(True), REQUEST)


def test_an_approval_is_for_a_number() -> None:
    check_names_a_version(settings(True), "2")
    check_names_a_version(settings(False), "latest")
    with pytest.raises(SettingsError, match="needs the number of its version"):
        check_names_a_version(settings(True), "latest")


def test_a_strategy_that_is_not_allowed_names_its_setting() -> None:
    check_strategy(settings(False), "rollout")
    only = settings(False, promotion=PromotionSettings(strategies=("broadcast",)))
    check_strategy(only, "broadcast")
    with pytest.raises(SettingsError, match=r"rollout is not allowed.*promotion\.strategies"):
        check_strategy(only, "rollout")


def test_the_requester_is_the_jobs_and_else_the_systems_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("LOGNAME", "USER"):
        monkeypatch.setenv(variable, "eve")
    own = pwd.getpwuid(os.getuid()).pw_name
    assert requester(settings(False)) == Requester(own, own)
    assert requester(settings(False, requested_by="bob")) == Requester("bob", "bob")
    proven = PromotionSettings(authenticated=True)
    found = requester(settings(False, requested_by="bob", promotion=proven))
    assert found == Requester("bob", "bob", authenticated=True)
