"""Who asked for a promotion, who may approve it, and how long it waits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from fraudops.cluster.identity import check_approvable, command_of
from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.approval import (
    APPROVED_BY,
    PAUSE_SECONDS,
    REQUESTED_BY,
    approver_in,
    wait_for_approval,
)
from fraudops.promotion.requester import Requester, requester_of

CONTROLLER = "system:serviceaccount:kube-system:cronjob-controller"


@pytest.mark.parametrize(
    ("annotated", "policy", "expected"),
    [
        (None, False, Requester("ada", "ada")),
        # A variable of the shell must not make a name look proven.
        (None, True, Requester("ada", "ada")),
        ("bob", False, Requester("bob", "bob")),
        ("bob", True, Requester("bob", "bob", True)),
        ("", True, Requester("automation", None)),
        (CONTROLLER, True, Requester("automation", CONTROLLER, True)),
        (CONTROLLER, False, Requester("automation", CONTROLLER)),
    ],
)
def test_the_requester_is_the_name_on_the_job_or_the_systems_user(
    annotated: str | None, policy: bool, expected: Requester
) -> None:
    assert requester_of(annotated, policy, "ada") == expected


@pytest.mark.parametrize(
    ("annotations", "approver"),
    [
        ({}, None),
        ({REQUESTED_BY: "bob"}, None),
        ({REQUESTED_BY: "bob", APPROVED_BY: ""}, None),
        ({REQUESTED_BY: "bob", APPROVED_BY: "bob"}, None),
        ({REQUESTED_BY: "bob", APPROVED_BY: CONTROLLER}, None),
        # The names as the chart's policies have them.
        ({"fraudops.io/requested-by": "bob", "fraudops.io/approved-by": "alice"}, "alice"),
        ({"fraudops.io/requested-by": "bob", "fraudops.io/approved-by": "bob"}, None),
        ({APPROVED_BY: "alice"}, "alice"),
    ],
)
def test_only_another_person_approves(annotations: dict[str, str], approver: str | None) -> None:
    assert approver_in(annotations) == approver


@dataclass
class Waiting:
    """A clock that a sleep moves, and a Job that answers at each time what `answers` says."""

    answers: Mapping[float, Mapping[str, str] | Exception]
    job: str = "promote-1"
    time: float = 100.0
    said: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def timestamp(self) -> str:
        return "then"

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    async def annotations(self) -> Mapping[str, str]:
        answer = self.answers.get(self.time - 100, {REQUESTED_BY: "bob"})
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def approver(self, seconds: float) -> str:
        return await wait_for_approval(self, seconds, self, self.said.append)


async def test_a_promotion_waits_for_its_approval_and_says_so_once() -> None:
    waiting = Waiting({3 * PAUSE_SECONDS: {REQUESTED_BY: "bob", APPROVED_BY: "alice"}})
    assert await waiting.approver(60) == "alice"
    assert waiting.time == 100 + 3 * PAUSE_SECONDS
    assert waiting.said == [
        "waiting up to 60 s for another user: fraudops approve promote-1",
        "approved by alice",
    ]


async def test_the_approval_in_the_last_moment_counts_and_a_later_one_does_not() -> None:
    approved = {REQUESTED_BY: "bob", APPROVED_BY: "alice"}
    assert await Waiting({2 * PAUSE_SECONDS: approved}).approver(2 * PAUSE_SECONDS) == "alice"
    late = Waiting({3 * PAUSE_SECONDS: approved})
    with pytest.raises(RefusedError, match="no other user approved the promotion within 4 s"):
        await late.approver(2 * PAUSE_SECONDS)


async def test_an_api_server_that_is_away_delays_and_then_expires() -> None:
    away = StoreDownError("the Kubernetes API does not answer")
    approved = {REQUESTED_BY: "bob", APPROVED_BY: "alice"}
    waiting = Waiting({0: away, PAUSE_SECONDS: away, 2 * PAUSE_SECONDS: approved})
    assert await waiting.approver(60) == "alice"
    assert waiting.said[0] == "waiting for an approval: the Kubernetes API does not answer"
    with pytest.raises(RefusedError):
        await Waiting({n * PAUSE_SECONDS: away for n in range(9)}).approver(2 * PAUSE_SECONDS)


def job(annotations: dict[str, str], *conditions: str) -> dict[str, object]:
    containers = [{"command": ["python", "-m", "jobs.promote"], "args": ["--version", "2"]}]
    return {
        "metadata": {"name": "promote-1", "annotations": annotations},
        "spec": {"template": {"spec": {"containers": containers}}},
        "status": {"conditions": [{"type": type_, "status": "True"} for type_ in conditions]},
    }


@pytest.mark.parametrize(
    ("found", "user", "reason"),
    [
        (job({REQUESTED_BY: "bob"}), "bob", "bob has started Job promote-1"),
        (job({REQUESTED_BY: "bob"}), CONTROLLER, "no person's name"),
        (job({REQUESTED_BY: "bob"}, "Failed"), "alice", "has ended"),
        (job({REQUESTED_BY: "bob", APPROVED_BY: "eve"}), "alice", "already approved, by eve"),
    ],
)
def test_what_cannot_be_approved_is_refused_with_the_reason(
    found: dict[str, object], user: str, reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason):
        check_approvable(found, user)


@pytest.mark.parametrize("held", [{"suspend": True}, {"parallelism": 0}])
def test_a_suspended_job_cannot_be_approved(held: dict[str, object]) -> None:
    found: dict[str, Any] = job({REQUESTED_BY: "bob"})
    found["spec"] |= held
    with pytest.raises(RefusedError, match="Job promote-1 is suspended: approve it when it runs"):
        check_approvable(found, "alice")


def test_the_approver_sees_what_the_job_runs() -> None:
    check_approvable(job({REQUESTED_BY: "bob"}, "Suspended"), "alice")
    assert command_of(job({})) == ["jobs.promote", "--version", "2"]
