"""What the gate admits, and why it refuses the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from fraudops.errors import RefusedError, SignatureRefusedError
from fraudops.promotion.admission import Nominee, SealedFacts, Trust, admit, go_back
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote
from fraudops.promotion.serving_record import EMPTY, ModelRef, ServingEntry, ServingRecord
from fraudops.registry import TAG_SAMPLE, TAG_VERDICT, ModelVersion
from fraudops.signing.credentials import Credentials, PromotionTerms
from fraudops.signing.verdicts import SignedVerdict, Verdict
from tests.support.signing import SIGNERS, Signers, passing

DIGEST, SERVING_DIGEST = "d" * 64, "e" * 64
GATES = ({"name": "roc_auc", "passed": True},)
COMPARED = {"version": "2", "digest": SERVING_DIGEST}
WHO = {"reason": "an emergency", "who": "ada", "request": "request-1"}
KEYS = SIGNERS.public
TERMS = PromotionTerms("fraud", "request-1", datetime(2026, 3, 1, 10, 30, tzinfo=UTC), True)
# What the registry says of the version. Its verdict is not signed, so it decides nothing.
FOUND = ModelVersion(
    version="3",
    run_id="run",
    source="source",
    digest=DIGEST,
    schema_fingerprint="s",
    verdict={"digest": DIGEST, "passed": True},
    aliases=(),
    created_at="2026-11-02T12:00:00Z",
    tags={TAG_SAMPLE: "false", TAG_VERDICT: '{"passed":true}'},
)


def signed(**changes: Any) -> SignedVerdict:
    facts: dict[str, Any] = {"schema_fingerprint": "s", "compared_to": COMPARED}
    return SIGNERS.signed_for("3", DIGEST, **facts | changes)


def waiver(**changes: Any) -> str:
    return SIGNERS.waiver_for("3", DIGEST, **WHO | changes)


VERDICT, FAILED = signed(), signed(passed=False)


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
        signed_verdict=passing(version, digest),
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

    def __call__(self, version: ModelVersion, verdict: Verdict) -> Sequence[Gate]:
        assert verdict.version == version.version
        self.asked.append(version.version)
        return self.gates


def admitted(
    verdict: SignedVerdict | None = VERDICT,
    signed_waiver: str | None = None,
    version: ModelVersion = FOUND,
    record: ServingRecord = SERVING,
    strategy: Strategy = "broadcast",
    comparison: Comparison | None = None,
    environment: str = "development",
    facts: SealedFacts | None = None,
) -> Promote:
    def read_facts() -> SealedFacts:
        assert facts is not None, "the manifest is read only for a version without a verdict"
        return facts

    return admit(
        Nominee(
            version,
            Credentials(signed_verdict=verdict, signed_waiver=signed_waiver),
            read_facts,
        ),
        record,
        strategy,
        comparison or Comparison(),
        Trust(KEYS, TERMS, environment),  # type: ignore[arg-type]
    )


# -- the verdict


def test_a_passing_verdict_is_admitted_and_goes_into_the_record_with_its_short_form() -> None:
    change = admitted(strategy="rollout")
    assert (change.act, change.strategy) == ("promote", "rollout")
    assert change.model == ModelRef(
        version="3",
        digest=DIGEST,
        schema_fingerprint="s",
        verdict={
            "digest": DIGEST,
            "test_digest": "7" * 64,
            "passed": True,
            "compared_to": COMPARED,
            "at": "2026-03-01T10:00:00.000+00:00",
            "signer": SIGNERS.verdict.public.id,
        },
        signed_verdict=VERDICT,
    )


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (None, "version 3 has no signed verdict: run `fraudops validate --version 3`"),
        (
            signed(
                passed=False,
                gates=(
                    {"name": "roc_auc", "passed": False},
                    {"name": "cost", "passed": True},
                    {"name": "calibration", "passed": False},
                ),
            ),
            "version 3 did not pass validation (roc_auc, calibration); "
            "`--force --reason …` waives the gates for one promotion",
        ),
        (
            signed(passed=False, gates=()),
            "version 3 did not pass validation (see its verdict); "
            "`--force --reason …` waives the gates for one promotion",
        ),
    ],
)
def test_without_a_passing_verdict_the_gate_refuses_and_says_what_to_do(
    verdict: SignedVerdict | None, reason: str
) -> None:
    comparison = Comparison()
    with pytest.raises(SignatureRefusedError) as refused:
        admitted(verdict, comparison=comparison)
    assert str(refused.value) == reason
    assert comparison.asked == []


FORGED = {
    "of another bundle": SIGNERS.signed_for("3", "a" * 64),
    "of another version": SIGNERS.signed_for("4", DIGEST),
    "of another model": signed(model_name="another"),
    "by a foreign key": Signers.new().signed_for("3", DIGEST),
    "altered": SignedVerdict(
        verdict=FAILED.verdict.replace('"passed":false', '"passed":true'),
        signature=FAILED.signature,
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_verdict_is_refused_whatever_the_tag_says_and_even_with_a_waiver(
    kind: str,
) -> None:
    for statement in (None, waiver()):
        with pytest.raises(SignatureRefusedError, match="the verdict is refused"):
            admitted(FORGED[kind], statement)


@pytest.mark.parametrize("missing", ["digest", "schema_fingerprint"])
def test_a_version_that_fraudops_did_not_train_is_refused_even_with_a_waiver(
    missing: str,
) -> None:
    foreign = replace(FOUND, **{missing: None})  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=r"version 3 carries no bundle.*`fraudops train`"):
        admitted(signed_waiver=waiver(), version=foreign)


def test_schema_and_sample_mark_come_from_the_signed_verdict_and_not_from_tags() -> None:
    lying = replace(FOUND, schema_fingerprint="s", tags={TAG_SAMPLE: "false"})
    other = signed(schema_fingerprint="other", sample=True)
    with pytest.raises(RefusedError, match=r"reads other columns .*`--strategy rollout`"):
        admitted(other, version=lying)
    model = admitted(other, version=lying, strategy="rollout").model
    assert (model.schema_fingerprint, model.sample) == ("other", True)


# -- the waiver


@pytest.mark.parametrize("verdict", [None, FAILED, VERDICT])
def test_a_waiver_replaces_the_verdict_and_is_kept_with_the_digest_that_it_is_for(
    verdict: SignedVerdict | None,
) -> None:
    comparison = Comparison(Gate("cost", passed=False))
    moved, statement = ServingRecord(current=entry("5", "f" * 64)), waiver()
    sealed = SealedFacts("s", sample=False)
    model = admitted(verdict, statement, record=moved, comparison=comparison, facts=sealed).model
    assert model.waiver == {
        "digest": DIGEST,
        "reason": "an emergency",
        "who": "ada",
        "at": "2026-03-01T10:00:00.000+00:00",
        "signer": SIGNERS.waiver.public.id,
    }
    assert (model.signed_verdict, model.signed_waiver) == (verdict, statement)
    # Not the comparison either: the user has decided.
    assert comparison.asked == []


def test_without_a_verdict_the_manifest_says_schema_and_sample() -> None:
    facts = SealedFacts("other", sample=True)
    with pytest.raises(RefusedError, match=r"reads other columns"):
        admitted(None, waiver(), facts=facts)
    model = admitted(None, waiver(), facts=facts, strategy="rollout").model
    assert (model.schema_fingerprint, model.sample, model.verdict) == ("other", True, None)
    with pytest.raises(RefusedError, match="trained on the packaged sample"):
        admitted(None, waiver(), facts=facts, strategy="rollout", environment="production")


def test_a_waiver_does_not_permit_a_broadcast_to_another_schema() -> None:
    other = ServingRecord(current=entry("2", schema="other"))
    with pytest.raises(RefusedError, match=r"reads other columns .*`--strategy rollout`"):
        admitted(FAILED, waiver(), record=other)
    change = admitted(FAILED, waiver(), record=other, strategy="rollout")
    assert change.strategy == "rollout"


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
    compared_to: dict[str, str] | None,
) -> None:
    comparison = Comparison()
    admitted(signed(compared_to=compared_to), comparison=comparison)
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
    for statement in (None, waiver()):
        with pytest.raises(RefusedError, match="version 3 was trained on the packaged sample"):
            admitted(signed(sample=True), statement, environment="production")


@pytest.mark.parametrize(("sample", "environment"), [(True, "development"), (False, "production")])
def test_development_admits_a_sample_model_and_production_another_model(
    sample: bool, environment: str
) -> None:
    change = admitted(signed(sample=sample), environment=environment)
    # A rollback in production reads this from the record.
    assert change.model.sample is sample


def test_without_an_environment_it_is_development() -> None:
    assert Trust(KEYS, TERMS).environment == "development"
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, sample=True),))
    assert go_back(record, KEYS).model.sample


# -- the way back


def test_a_rollback_takes_the_newest_other_model_with_its_verdict_or_waiver() -> None:
    waived = entry("1", "f" * 64)
    before = ServingEntry(
        **waived.model_fields()
        | {
            "waiver": {"reason": "an emergency"},
            "signed_verdict": SIGNERS.signed_for("1", "f" * 64, passed=False),
            # Its request is another one, and it has expired.
            "signed_waiver": SIGNERS.waiver_for("1", "f" * 64),
        },
        epoch=1,
        by="a request",
        act="promote",
        at="2026-11-01T12:00:00Z",
    )
    record = ServingRecord(current=entry("2"), stack=(entry("2"), before, entry("0", "a" * 64)))
    change = go_back(record, KEYS)
    assert (change.act, change.model, change.strategy) == ("rollback", before.model, "broadcast")


def test_a_rollback_to_another_schema_goes_by_rollout() -> None:
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, schema="other"),))
    assert go_back(record, KEYS).strategy == "rollout"


def test_a_rollback_to_a_sample_model_is_refused_in_production() -> None:
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64, sample=True),))
    with pytest.raises(RefusedError, match="version 1 was trained on the packaged sample"):
        go_back(record, KEYS, "production")
    assert go_back(record, KEYS, "development").model.version == "1"
    # The version that serves may be a sample model: the rollback replaces it.
    away = ServingRecord(current=entry("2", sample=True), stack=(entry("1", "f" * 64),))
    assert go_back(away, KEYS, "production").model.version == "1"


def test_a_rollback_whose_way_back_was_signed_by_a_retired_key_says_what_to_do() -> None:
    record = ServingRecord(current=entry("2"), stack=(entry("1", "f" * 64),))
    with pytest.raises(RefusedError, match=r"version 1 is the way back.*promote another one"):
        go_back(record, Signers.new().public)


@pytest.mark.parametrize(
    ("serving", "candidate", "same"),
    [
        (("v", None), ("v", None), True),
        (("v", None), ("other", None), False),
        ((None, None), ("v", None), False),
        (("v", "w"), ("v", "w"), True),
        (("v", "w"), ("v", "other"), False),
        (("v", "w"), ("v", None), True),
        (("v", None), ("v", "w"), True),
    ],
)
def test_what_serves_is_promoted_again_only_when_another_key_signs_for_it(
    serving: tuple[str | None, str | None], candidate: tuple[str | None, str | None], same: bool
) -> None:
    def signed_by(keys: tuple[str | None, str | None]) -> ModelRef:
        verdict, waiver = ({"signer": key} if key else None for key in keys)
        return ModelRef(
            version="1", digest=DIGEST, schema_fingerprint="s", verdict=verdict, waiver=waiver
        )

    assert signed_by(candidate).is_signed_by_keys_of(signed_by(serving)) is same


@pytest.mark.parametrize(
    "record", [EMPTY, SERVING, ServingRecord(current=entry("2"), stack=(entry("2"),))]
)
def test_the_first_version_cannot_be_rolled_back(record: ServingRecord) -> None:
    with pytest.raises(RefusedError, match="no earlier version"):
        go_back(record, KEYS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signed_verdict": None}, "version 1 has no signed verdict"),
        ({"signed_verdict": passing("1", "a" * 64)}, "about the bundle aaaaaaaaaaaa"),
        ({"signed_verdict": passing("2", "f" * 64)}, "about version 2, not about version 1"),
        (
            {"signed_verdict": Signers.new().signed_for("1", "f" * 64)},
            "which this release does not trust",
        ),
        (
            {"signed_verdict": SIGNERS.signed_for("1", "f" * 64, passed=False)},
            "version 1 did not pass validation",
        ),
    ],
)
def test_a_rollback_to_an_entry_that_nothing_proves_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    back = msgspec.structs.replace(entry("1", "f" * 64), **changes)
    with pytest.raises(SignatureRefusedError, match=reason):
        go_back(ServingRecord(current=entry("2"), stack=(back,)), KEYS)


def test_a_rollback_to_what_release_0_2_0_promoted_works_and_keeps_the_mark() -> None:
    back = msgspec.structs.replace(entry("1", "f" * 64), signed_verdict=None, unsigned=True)
    change = go_back(ServingRecord(current=entry("2"), stack=(back,)), KEYS)
    assert (change.model.version, change.model.unsigned) == ("1", True)
