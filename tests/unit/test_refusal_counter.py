"""Refused transactions are counted once each, under labels that no client can invent."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fraudops.audit.records import RefusalCount, decode, encode
from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.ids import timestamp_ms
from fraudops.spool import SpoolWriter
from fraudops.spool.frames import frame_at
from fraudops.spool.options import SpoolOptions
from services.inference import refusals
from services.inference.audit.writers import Audit, NoAudit, Unwritten
from services.inference.reading.faults import FieldFault
from services.inference.refusals import MOST_COUNTS, MOST_SERIES, RefusalCounter
from tests.support.audit_records import prediction


class SeenMetrics:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, int]] = []

    def transaction_refused(self, endpoint: str, field: str, reason: str, rows: int) -> None:
        self.seen.append((endpoint, field, reason, rows))


def counted(faults: Sequence[FieldFault]) -> list[tuple[Any, ...]]:
    metrics = SeenMetrics()
    audit: Any = SimpleNamespace(off=False)
    counter = RefusalCounter(audit, metrics, "local", "credit-fraud")  # type: ignore[arg-type]
    counter.note("/predict/batch", "3", faults)
    return metrics.seen


def test_each_row_counts_once_by_its_first_fault() -> None:
    faults = [
        FieldFault(index=4, field="V1", reason="is missing", code="missing"),
        FieldFault(index=4, field="V2", reason="is missing", code="missing"),
        FieldFault(index=7, field="V1", reason="is missing", code="missing"),
        FieldFault(index=9, field="V2", reason="must be a number", code="wrong_type"),
    ]
    assert counted(faults) == [
        ("/predict/batch", "V1", "missing", 2),
        ("/predict/batch", "V2", "wrong_type", 1),
    ]


@pytest.mark.parametrize(
    ("fault", "labels"),
    [
        (FieldFault(reason="is empty", code="empty"), ("(body)", "empty")),
        (
            FieldFault(field="transactions", reason="is missing", code="missing"),
            ("(body)", "missing"),
        ),
        (
            FieldFault(index=3, reason="is larger than 64 KiB", code="too_large"),
            ("(body)", "too_large"),
        ),
        (FieldFault(reason="is not accepted"), ("(other)", "other")),
        (FieldFault(field="card4111", reason="is not a field"), ("(other)", "other")),
        (
            FieldFault(field="card4111", reason="is not a field", code="unknown_field"),
            ("(other)", "unknown_field"),
        ),
    ],
)
def test_a_name_of_the_client_is_no_label(fault: FieldFault, labels: tuple[str, str]) -> None:
    assert counted([fault]) == [("/predict/batch", *labels, 1)]


def audit_of(tmp_path: Path, max_bytes: int = 1 << 20) -> tuple[Audit, SpoolWriter]:
    writer = SpoolWriter(tmp_path / "spool", "w", SpoolOptions(max_bytes=max_bytes))
    metrics: Any = SimpleNamespace(refused=lambda records: None)
    return Audit(lambda: writer, metrics, tmp_path), writer


def fill(audit: Audit) -> None:
    """Append predictions until the audit refuses one."""
    while True:
        audit.put([encode(prediction())])


def counter_of(audit: Any, metrics: Any = None) -> RefusalCounter:
    return RefusalCounter(audit, metrics or SeenMetrics(), "pod-1", "credit-fraud")


def written(tmp_path: Path) -> list[RefusalCount]:
    found: list[RefusalCount] = []
    for path in sorted((tmp_path / "spool").glob("*.seg")):
        data, offset = path.read_bytes(), 0
        while frame := frame_at(data, offset):
            record, offset = decode(frame.payload), frame.end
            found += [record] if isinstance(record, RefusalCount) else []
    return found


def missing(field: str, index: int | None = None) -> FieldFault:
    return FieldFault(index=index, field=field, reason="is missing", code="missing")


async def test_a_flush_writes_one_record_for_each_field_and_reason(tmp_path: Path) -> None:
    audit, writer = audit_of(tmp_path)
    counter = counter_of(audit)
    await counter.flush()
    counter.note("/predict", "3", [missing("V1")])
    counter.note("/predict", "3", [missing("V1"), missing("V2")])
    counter.note("/predict", "4", [missing("V1")])
    counter.note("/predict/batch", "4", [missing("V1", 0), missing("V1", 7)])
    await counter.flush()
    await counter.flush()
    writer.close()
    records = written(tmp_path)
    assert [(r.endpoint, r.model_version, r.field, r.reason, r.rows) for r in records] == [
        ("/predict", "3", "V1", "missing", 2),
        ("/predict", "4", "V1", "missing", 1),
        ("/predict/batch", "4", "V1", "missing", 2),
    ]
    assert {(r.pod, r.model_name) for r in records} == {("pod-1", "credit-fraud")}
    assert all(timestamp_ms(r.id) for r in records)
    assert len({r.id for r in records}) == 3


async def test_a_count_fits_into_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MOST_ROWS", 2)
    audit, writer = audit_of(tmp_path)
    counter = counter_of(audit)
    counter.note("/predict/batch", "3", [missing("V1", index) for index in range(3)])
    await counter.flush()
    writer.close()
    assert [record.rows for record in written(tmp_path)] == [2]


async def test_refusals_are_bounded_and_survive_a_full_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit, writer = audit_of(tmp_path, 32 << 10)
    with pytest.raises(SpoolFullError):
        fill(audit)
    metrics = SeenMetrics()
    counter = counter_of(audit, metrics)
    counter.note("/predict", "3", [missing("V1")])
    for _ in range(3):
        await counter.flush()
    # These wait for the next flush: the record of the first one exists already.
    for number in range(1000):
        counter.note("/predict", "3", [missing(f"V{number}")])
    await counter.flush()
    assert len(caplog.records) == 4
    assert len({(field, reason) for _, field, reason, _ in metrics.seen}) == MOST_SERIES + 1
    assert metrics.seen[-1] == ("/predict", "(other)", "other", 1)
    writer.lift_maximum()
    await counter.flush()
    await counter.flush()
    await counter.flush()
    writer.close()
    records = written(tmp_path)
    assert [(r.field, r.rows) for r in records[:2]] == [("V1", 1), ("V0", 1)]
    assert len(records) == 1 + MOST_COUNTS + 1
    assert (records[-1].field, records[-1].reason) == ("(other)", "other")
    assert sum(record.rows for record in records) == 1001


async def test_a_record_that_may_be_written_already_is_written_again_with_its_id() -> None:
    """With the durability `commit` an error does not say that nothing was written."""

    class Silent(Unwritten):
        taken: list[bytes] = []
        answers = False

        def append_many(self, payloads: Sequence[bytes], /) -> None:
            self.taken += payloads
            if not self.answers:
                raise StoreDownError("PostgreSQL did not confirm")

    writer = Silent()
    metrics: Any = SimpleNamespace(refused=lambda records: None)
    counter = counter_of(Audit(lambda: writer, metrics, Path("/nowhere")))
    counter.note("/predict", "3", [missing("V1")])
    await counter.flush()
    writer.answers = True
    await counter.flush()
    first, second = map(decode, writer.taken)
    assert first == second


async def test_without_an_audit_only_the_metric_counts() -> None:
    class Taken(Unwritten):
        def append_many(self, payloads: Sequence[bytes], /) -> None:
            raise AssertionError("nothing is audited here")

    metrics: Any = SeenMetrics()
    counter = counter_of(NoAudit(Taken, metrics, Path("/nowhere")), metrics)
    counter.note("/predict", "3", [missing("V1")])
    await counter.flush()
    assert metrics.seen == [("/predict", "V1", "missing", 1)]


async def test_the_counts_are_flushed_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "FLUSH_SECONDS", 0)

    class Flushed(RefusalCounter):
        times = 0

        async def flush(self) -> None:
            self.times += 1
            if self.times == 3:
                raise StopAsyncIteration

    counter: Any = Flushed(*[None] * 4)  # type: ignore[arg-type]
    with pytest.raises(StopAsyncIteration):
        await counter.run()
