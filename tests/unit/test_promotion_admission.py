"""The versions that the gate admits in each environment."""

import pytest

from fraudops.errors import RefusedError
from fraudops.promotion.admission import admit, way_back
from fraudops.promotion.serving_record import EMPTY, Reservation, ServingRecord, commit, reserve
from fraudops.registry import TAG_SAMPLE, ModelVersion

VERDICT = {"digest": "d", "passed": True}
WAIVER = {"digest": "d", "reason": "an emergency"}


def version(sample: str, waiver: dict[str, str] | None = None) -> ModelVersion:
    return ModelVersion(
        "3",
        "run",
        "source",
        "d",
        "s",
        VERDICT,
        waiver,
        (),
        "2026-11-02T12:00:00Z",
        {TAG_SAMPLE: sample},
    )


def test_production_refuses_a_model_of_the_packaged_sample_whatever_was_waived() -> None:
    for waiver in (None, WAIVER):
        with pytest.raises(RefusedError, match="version 3 was trained on the packaged sample"):
            admit(version("true", waiver), EMPTY, "broadcast", lambda _: [], "production")


@pytest.mark.parametrize(
    ("sample", "environment"), [("true", "development"), ("false", "production")]
)
def test_development_admits_a_sample_model_and_production_another_model(
    sample: str, environment: str
) -> None:
    admitted = admit(
        version(sample),
        EMPTY,
        "broadcast",
        lambda _: [],
        environment,  # type: ignore[arg-type]
    )
    assert admitted.version == "3"


def promoted(record: ServingRecord, candidate_sample: bool) -> ServingRecord:
    """Return the record after the protocol has promoted a version that the gate admitted."""
    admitted = admit(version(str(candidate_sample).lower()), record, "broadcast", lambda _: [])
    epoch = record.highest_epoch + 1
    reservation = Reservation(
        epoch=epoch,
        version=str(epoch),
        digest=str(epoch) * 64,
        schema_fingerprint="s",
        strategy="broadcast",
        by="a",
        at="now",
        sample=admitted.sample,
    )
    return commit(reserve(record, reservation))


def test_a_rollback_to_a_sample_model_is_refused_in_production() -> None:
    record = promoted(promoted(EMPTY, candidate_sample=True), candidate_sample=False)
    with pytest.raises(RefusedError, match="version 1 was trained on the packaged sample"):
        way_back(record, "production")
    assert way_back(record, "development").sample
    own = promoted(promoted(EMPTY, candidate_sample=False), candidate_sample=True)
    assert way_back(own, "production").version == "1"


def test_the_first_version_cannot_be_rolled_back() -> None:
    with pytest.raises(RefusedError, match="no earlier version"):
        way_back(promoted(EMPTY, candidate_sample=False))
