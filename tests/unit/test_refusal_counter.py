"""Refused transactions are counted once each, under labels that no client can invent."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from services.inference import refusals
from services.inference.reading.faults import FieldFault
from services.inference.refusals import RefusalCounter


class SeenMetrics:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, int]] = []

    def transaction_refused(self, endpoint: str, field: str, reason: str, rows: int) -> None:
        self.seen.append((endpoint, field, reason, rows))


def counted(faults: Sequence[FieldFault]) -> list[tuple[Any, ...]]:
    metrics = SeenMetrics()
    audit: Any = SimpleNamespace()
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
    assert await RefusalCounter(*[None] * 4).flush() is None  # type: ignore[arg-type,func-returns-value]
