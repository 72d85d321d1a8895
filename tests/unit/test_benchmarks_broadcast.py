"""The benchmark of a broadcast runs real promotions and rejects one that did not happen."""

import random
from pathlib import Path

import pytest

from benchmarks import broadcast
from benchmarks.fake_pods import FakePod, ServiceTimes
from benchmarks.processes import SubjectError
from fraudops.promotion.local import FileRecordStore

AT_ONCE = ServiceTimes([0.0], [0.0], [0.0])


def test_a_broadcast_to_fake_pods_is_a_real_promotion(tmp_path: Path) -> None:
    phases = broadcast.promote(tmp_path / "pods", 4, AT_ONCE, seed=1)
    assert 0 < phases.reserved < phases.committed < phases.whole
    record, _ = FileRecordStore(tmp_path / "pods" / "serving.json").read()
    assert (record.epoch, record.alias_epoch) == (2, 2)
    assert record.current is not None
    assert record.current.version == "2"


def test_a_broadcast_waits_for_the_slowest_pod(tmp_path: Path) -> None:
    slow = ServiceTimes([0.0], [0.3], [0.0])
    phases = broadcast.promote(tmp_path / "pods", 4, slow, seed=1)
    assert phases.committed - phases.reserved >= 0.3


async def test_a_fake_pod_refuses_a_commit_that_the_record_has_not(tmp_path: Path) -> None:
    pod = FakePod("pod", FileRecordStore(tmp_path / "serving.json"), AT_ONCE, random.Random(1))
    status, body = await pod.answer("/reload", {"phase": "commit", "epoch": 1})
    assert (status, body["detail"]) == (409, "the serving record is not yet there")


def test_a_promotion_that_pods_do_not_follow_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(_pods: broadcast.LoopbackPods, _pod: object) -> int:
        return 7

    monkeypatch.setattr(broadcast.LoopbackPods, "epoch", elsewhere)
    with pytest.raises(SubjectError, match=r"the pods at \{7\}"):
        broadcast.promote(tmp_path / "pods", 3, AT_ONCE, seed=1)
