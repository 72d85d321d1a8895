"""What the gate admits, and why it refuses the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from fraudops.errors import RefusedError
from fraudops.promotion.admission import Waiver, admit, go_back
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote
from fraudops.promotion.serving_record import EMPTY, ModelRef, ServingEntry, ServingRecord
from fraudops.registry import TAG_SAMPLE, ModelVersion

DIGEST, SERVING_DIGEST = "d" * 64, "e" * 64
VERDICT = {
    "digest": DIGEST,
    "test_digest": "t",
    "passed": True,
    "gates": [{"name": "roc_auc", "passed": True}],
    "compared_to": {"version": "2", "digest": SERVING_DIGEST},
    "at": "2026-11-01T12:00:00Z",
}
WAIVER = Waiver("an emergency", "ada", "2026-11-02T12:00:00+00:00")
FOUND = ModelVersion(
    version="3",
    run_id="run",
    source="source",
    digest=DIGEST,
    schema_fingerprint="s",
    verdict=VERDICT,
    aliases=(),
    created_at="2026-11-02T12:00:00Z",
    tags={TAG_SAMPLE: "false"},
)


def entry(
    version: str, digest: str = SERVING_DIGEST, schema: str = "s", sample: bool = False
) -> ServingEntry:
    return ServingEntry(
        epoch=int(version),
        version=version,
        digest=digest,
        schema_fingerprint=schema,
        by="a request",
        act="promote",
        at="2026-11-01T12:00:00Z",
        sample=sample,
    )


SERVING = ServingRecord(current=entry("2"))


@dataclass(frozen=True)
class Gate:
    name: str
    passed: bool
    detail: str = "0.7 is below 0.8"


class Comparison:
    """The comparison with production; counts how often the gate asks for it."""

    def __init__(self, *gates: Gate) -> None:
        self.gates, self.asked = gates, list[str]()

    def __call__(self, version: ModelVersion) -> Sequence[Gate]:
        self.asked.append(version.version)
        return self.gates


def admitted(
    version: ModelVersion = FOUND,
    record: ServingRecord = SERVING,
    strategy: Strategy = "broadcast",
    comparison: Comparison | None = None,
    environment: str = "development",
    waiver: Waiver | None = None,
) -> Promote:
    compared = comparison or Comparison()
    return admit(
        version,
        record,
        strategy,
        compared,
        environment,  # type: ignore[arg-type]
        waiver,
    )


# -- the verdict


def test_a_passing_verdict_for_this_digest_is_admitted_with_its_short_form() -> None:
    change = admitted(strategy="rollout")
    assert (change.act, change.strategy) == ("promote", "rollout")
    # The record keeps the verdict without its gates, which are long.
    short = {name: value for name, value in VERDICT.items() if name != "gates"}
    assert change.model == ModelRef(
        version="3", digest=DIGEST, schema_fingerprint="s", verdict=short
    )


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (None, "version 3 has no verdict; run `fraudops validate --version 3`"),
        (
            VERDICT | {"digest": "other"},
            "version 3 has a verdict for another bundle; run `fraudops validate --version 3`",
        ),
        (
            VERDICT
            | {
                "passed": False,
                "gates": [
                    {"name": "roc_auc", "passed": False},
                    {"name": "cost", "passed": True},
                    {"name": "calibration", "passed": False},
                ],
            },
            "version 3 did not pass validation (roc_auc, calibration); "
            "`--force --reason …` waives the gates for one promotion",
        ),
        (
            {"digest": DIGEST, "passed": False},
            "version 3 did not pass validation (see its verdict); "
            "`--force --reason …` waives the gates for one promotion",
        ),
        # A verdict that does not say whether it passed has not passed.
        (
            {"digest": DIGEST},
            "version 3 did not pass validation (see its verdict); "
            "`--force --reason …` waives the gates for one promotion",
        ),
    ],
)
def test_without_a_passing_verdict_for_this_digest_the_gate_refuses_and_says_what_to_do(
    verdict: dict[str, object] | None, reason: str
) -> None:
    comparison = Comparison()
    with pytest.raises(RefusedError) as refused:
        admitted(replace(FOUND, verdict=verdict), comparison=comparison)
    assert str(refused.value) == reason
    assert comparison.asked == []


@pytest.mark.parametrize("missing", ["digest", "schema_fingerprint"])
def test_a_version_that_fraudops_did_not_train_is_refused_even_with_a_waiver(
    missing: str,
) -> None:
    foreign = replace(FOUND, **{missing: None})  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=r"version 3 carries no bundle.*`fraudops train`"):
        admitted(foreign, waiver=WAIVER)


# -- the waiver


@pytest.mark.parametrize(
    "verdict", [None, VERDICT | {"digest": "other"}, VERDICT | {"passed": False, "gates": []}]
)
def test_a_waiver_replaces_the_verdict_and_is_kept_with_the_digest_that_it_is_for(
    verdict: dict[str, object] | None,
) -> None:
    comparison = Comparison(Gate("cost", passed=False))
    moved = ServingRecord(current=entry("5", "f" * 64))
    model = admitted(
        replace(FOUND, verdict=verdict), moved, comparison=comparison, waiver=WAIVER
    ).model
    assert model.waiver == {
        "digest": DIGEST,
        "reason": "an emergency",
        "who": "ada",
        "at": "2026-11-02T12:00:00+00:00",
    }
    # Not the comparison either: the user has decided.
    assert comparison.asked == []
    # What the record keeps beside it is a verdict for this bundle, or none.
    assert (model.verdict or {}).get("digest", DIGEST) == DIGEST


def test_a_waiver_does_not_permit_a_broadcast_to_another_schema() -> None:
    other = ServingRecord(current=entry("2", schema="other"))
    with pytest.raises(RefusedError, match=r"reads other columns .*`--strategy rollout`"):
        admitted(record=other, waiver=WAIVER)
    assert admitted(record=other, strategy="rollout", waiver=WAIVER).strategy == "rollout"


# -- production has moved since the verdict


def test_the_version_is_compared_again_only_when_production_has_moved() -> None:
    same, own, moved = Comparison(), Comparison(), Comparison(Gate("cost", passed=True))
    admitted(record=SERVING, comparison=same)
    # What serves is this bundle itself.
    admitted(record=ServingRecord(current=entry("2", DIGEST)), comparison=own)
    admitted(record=EMPTY, comparison=own)
    admitted(record=ServingRecord(current=entry("5", "f" * 64)), comparison=moved)
    assert (same.asked, own.asked, moved.asked) == ([], [], ["3"])


@pytest.mark.parametrize("compared_to", [None, {}])
def test_a_verdict_that_compared_with_no_version_is_compared_with_the_one_that_serves(
    compared_to: dict[str, object] | None,
) -> None:
    comparison = Comparison()
    verdict = VERDICT | {"compared_to": compared_to}
    admitted(replace(FOUND, verdict=verdict), comparison=comparison)
    assert comparison.asked == ["3"]


def test_a_version_that_is_worse_than_what_serves_now_is_refused_with_each_gate() -> None:
    worse = Comparison(
        Gate("cost", False, "12 more"), Gate("recall", True), Gate("precision", False, "0.1 less")
    )
    with pytest.raises(RefusedError) as refused:
        admitted(record=ServingRecord(current=entry("5", "f" * 64)), comparison=worse)
    assert str(refused.value) == (
        "production has moved to version 5 since the verdict, and against it version 3 is worse: "
        "cost: 12 more; precision: 0.1 less"
    )


# -- the packaged sample


def test_production_refuses_a_model_of_the_packaged_sample_even_with_a_waiver() -> None:
    sample = replace(FOUND, tags={TAG_SAMPLE: "true"})
    for waiver in (None, WAIVER):
        with pytest.raises(RefusedError, match="version 3 was trained on the packaged sample"):
            admitted(sample, environment="production", waiver=waiver)


@pytest.mark.parametrize(
    ("sample", "environment"), [("true", "development"), ("false", "production")]
)
def test_development_admits_a_sample_model_and_production_another_model(
    sample: str, environment: str
) -> None:
    change = admitted(replace(FOUND, tags={TAG_SAMPLE: sample}), environment=environment)
    # A rollback in production reads this from the record.
    assert change.model.sample is (sample == "true")


def test_without_an_environment_it_is_development() -> None:
    sample = replace(FOUND, tags={TAG_SAMPLE: "true"})
    assert admit(sample, SERVING, "broadcast", Comparison()).model.sample
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, sample=True),))
    assert go_back(record).model.sample


# -- the way back


def test_a_rollback_takes_the_newest_other_model_with_its_verdict_or_waiver() -> None:
    waived = entry("1", "f" * 64)
    before = ServingEntry(
        **waived.model_fields() | {"waiver": {"reason": "an emergency"}},
        epoch=1,
        by="a request",
        act="promote",
        at="2026-11-01T12:00:00Z",
    )
    record = ServingRecord(current=entry("2"), stack=(entry("2"), before, entry("0", "a" * 64)))
    change = go_back(record)
    assert (change.act, change.model, change.strategy) == ("rollback", before.model, "broadcast")


def test_a_rollback_to_another_schema_goes_by_rollout() -> None:
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, schema="other"),))
    assert go_back(record).strategy == "rollout"


def test_a_rollback_to_a_sample_model_is_refused_in_production() -> None:
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, sample=True),))
    with pytest.raises(RefusedError, match="version 1 was trained on the packaged sample"):
        go_back(record, "production")
    assert go_back(record, "development").model.version == "1"
    # The version that serves may be a sample model: the rollback replaces it.
    away = ServingRecord(current=entry("2", sample=True), stack=(entry("1", "f" * 64),))
    assert go_back(away, "production").model.version == "1"


@pytest.mark.parametrize(
    "record", [EMPTY, SERVING, ServingRecord(current=entry("2"), stack=(entry("2"),))]
)
def test_the_first_version_cannot_be_rolled_back(record: ServingRecord) -> None:
    with pytest.raises(RefusedError, match="no earlier version"):
        go_back(record)
