"""One sentence for each ending of a promotion or rollback, with the next command."""

import pytest

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.attempt import Act, Outcome
from fraudops.promotion.request import PromotionResult
from jobs.reports.promotion import ending, late_notices

BEHIND = "not confirmed by a (not ready), b (node n-1 does not answer), c (terminating)"


def result(
    outcome: Outcome,
    reason: str | None = None,
    act: Act = "promote",
    version: str | None = "3",
    behind: tuple[str, ...] = (),
    late: tuple[str, ...] = (),
) -> PromotionResult:
    return PromotionResult(act, outcome, 5, version, reason, late, behind)


def failure(of: PromotionResult) -> FraudopsError:
    with pytest.raises(FraudopsError) as caught:
        ending(of, 1.0, " --on-cluster")
    return caught.value


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (result("done"), "version 3 serves on every worker (epoch 5, 2.3 s)"),
        (result("done", act="rollback"), "version 3 serves again on every worker (epoch 5, 2.3 s)"),
        (
            result("unchanged", "already in production"),
            "version 3 is in production already: nothing has changed (epoch 5, 2.3 s)",
        ),
        (result("done", late=("alias",)), "version 3 serves on every worker (epoch 5, 2.3 s)"),
    ],
)
def test_a_success_is_one_sentence(ended: PromotionResult, sentence: str) -> None:
    assert ending(ended, 2.34, "") == sentence


@pytest.mark.parametrize(
    ("ended", "code", "sentence"),
    [
        (
            result("refused", "pod a: the bundle has been altered"),
            65,
            "refused: pod a: the bundle has been altered. Nothing has changed: version 3 serves "
            "(epoch 5); see `fraudops status --on-cluster`",
        ),
        (
            result("refused", "there is no pod to prepare", version=None),
            65,
            "refused: there is no pod to prepare. Nothing has changed: no model serves; "
            "see `fraudops status --on-cluster`",
        ),
        (
            result("failed", "not confirmed by a, b, so version 3 serves again", behind=("a", "b")),
            65,
            "failed: not confirmed by a, b, so version 3 serves again (epoch 5). Look at these "
            "pods with `fraudops status --on-cluster` before you promote again",
        ),
        (
            result("overtaken", "version 4 was promoted since (epoch 6)"),
            65,
            "overtaken: version 4 was promoted since (epoch 6); version 3 serves (epoch 5). "
            "`fraudops promotions --on-cluster` lists the later acts. "
            "Run the same command again if that is not what you want",
        ),
        (
            result("unconfirmed", BEHIND, behind=("a", "b", "c")),
            75,
            f"unconfirmed: {BEHIND}. Version 3 is committed (epoch 5). Pods follow the "
            "serving record without further action: watch them with "
            "`fraudops status --on-cluster`. If version 3 is bad, go back with "
            "`fraudops rollback --on-cluster`",
        ),
    ],
)
def test_every_other_ending_names_the_reason_and_the_next_command(
    ended: PromotionResult, code: int, sentence: str
) -> None:
    error = failure(ended)
    assert (error.exit_code, str(error)) == (code, sentence)
    assert isinstance(error, RefusedError if code == 65 else StoreDownError)


def test_what_is_late_says_who_writes_it() -> None:
    alias, row = late_notices(result("done", late=("alias", "row")))
    assert alias.startswith("the registry's alias: the reconciler writes it")
    assert row.startswith("the row in promotions: the serving record keeps it")
    assert late_notices(result("done")) == []
