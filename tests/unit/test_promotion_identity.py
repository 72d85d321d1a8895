"""Whose name a promotion records, and when it says that the name was compared."""

from fraudops.promotion.requester import Requester, requester_of
from tests.support.simulation.stage import Stage, on_stage


def test_a_signed_statement_names_the_actor_or_else_the_shown_name() -> None:
    controller = "system:serviceaccount:kube-system:cronjob-controller"
    assert requester_of(controller, True, "root").identity == controller
    assert requester_of("", True, "root").identity == "automation"
    assert Requester("ada", "ada@example.com").identity == "ada@example.com"


@on_stage()
async def test_a_row_claims_no_comparison_of_the_name_without_a_policy(stage: Stage) -> None:
    await stage.promote("3")
    assert not stage.row("act-1").authenticated
    await stage.roll_back()
    assert not stage.row("act-2").authenticated
