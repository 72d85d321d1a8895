"""What the target of a pod's template means to the pod."""

import msgspec
import pytest

from fraudops.promotion.pod_rules import destination
from fraudops.promotion.serving_record import (
    Reservation,
    ServingEntry,
    ServingRecord,
    ServingTarget,
)

AT_4, AT_5 = ServingTarget(4, "1", "1" * 64), ServingTarget(5, "2", "2" * 64)
ACT = {"schema_fingerprint": "f", "by": "a request", "act": "promote", "at": "then"}


@pytest.mark.parametrize(("strategy", "goes_to"), [("rollout", AT_5), ("broadcast", AT_4)])
def test_only_a_rollout_sends_a_new_pod_to_its_template(
    strategy: str, goes_to: ServingTarget
) -> None:
    record = ServingRecord(
        current=ServingEntry(**msgspec.structs.asdict(AT_4), **ACT),
        reserved=Reservation(**msgspec.structs.asdict(AT_5), **ACT, strategy=strategy),
    )
    assert destination(record, AT_5) == goes_to
