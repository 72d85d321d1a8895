"""Which version the gate lets through in which environment."""

import pytest

from fraudops.errors import RefusedError
from fraudops.promotion.gate import admit
from fraudops.promotion.record import EMPTY
from fraudops.registry import TAG_SAMPLE, ModelVersion

VERDICT = {"digest": "d", "passed": True}
WAIVER = {"digest": "d", "reason": "an emergency"}


def version(sample: str, waiver: dict[str, str] | None = None) -> ModelVersion:
    return ModelVersion("3", "run", "source", "d", "s", VERDICT, waiver, (), "2026-11-02T12:00:00Z", {TAG_SAMPLE: sample})


def test_production_refuses_a_model_of_the_packaged_sample_whatever_was_waived() -> None:
    for waiver in (None, WAIVER):
        with pytest.raises(RefusedError, match="version 3 was trained on the packaged sample"):
            admit(version("true", waiver), EMPTY, "broadcast", lambda _: [], "production")


@pytest.mark.parametrize(("sample", "environment"), [("true", "development"), ("false", "production")])
def test_a_sample_model_is_good_for_development_and_ones_own_for_production(sample: str, environment: str) -> None:
    admitted = admit(version(sample), EMPTY, "broadcast", lambda _: [], environment)  # type: ignore[arg-type]
    assert admitted.version == "3"
