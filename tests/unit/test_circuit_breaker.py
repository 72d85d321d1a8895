"""The circuit breaker of the shipper: what opens it, what keeps it open, what closes it."""

import pytest

from services.shipper.circuit_breaker import (
    LONGEST_SERIES,
    SAMPLE,
    CircuitBreaker,
    CopyTrial,
    DatabaseRefusesError,
    RowFault,
    common_fault,
)

FAULT = RowFault("predictions", "23514", "constraint no_v3")
OTHER = RowFault("predictions", "23502", "column region")
OF_LABELS = RowFault("labels", "23514", "constraint no_v3")
UNIQUE = RowFault("predictions", "23505", "constraint one_pod")
ENCODER = RowFault("predictions", "")


def like(fault: RowFault | None) -> CopyTrial:
    return CopyTrial(alike=True, fault=fault)


def unlike(fault: RowFault | None) -> CopyTrial:
    return CopyTrial(alike=False, fault=fault)


@pytest.mark.parametrize(
    ("tried", "common"),
    [
        ([FAULT] * SAMPLE, FAULT),
        ([FAULT], FAULT),
        ([FAULT] * 7 + [None], None),
        ([None], None),
        ([FAULT] * 7 + [OTHER], None),
        ([], None),
    ],
)
def test_rows_are_suspicious_together_when_all_have_one_fault(
    tried: list[RowFault | None], common: RowFault | None
) -> None:
    assert common_fault(tried) == common


@pytest.mark.parametrize(
    ("fault", "rows", "copied", "opens"),
    [
        (FAULT, SAMPLE, None, True),
        (FAULT, 5000, None, True),
        (FAULT, SAMPLE - 1, None, False),
        (FAULT, 1, like(FAULT), True),
        (FAULT, 5000, like(FAULT), True),
        (FAULT, SAMPLE - 1, unlike(FAULT), True),
        # The database accepts such rows: these are bad.
        (FAULT, SAMPLE, like(None), False),
        (FAULT, 5000, like(None), False),
        # It accepts rows of another model version.
        (FAULT, 5000, unlike(None), True),
        (FAULT, SAMPLE - 1, unlike(None), False),
        # A copy with another fault decides nothing.
        (FAULT, 5000, like(OTHER), True),
        (FAULT, 1, like(OTHER), False),
        (FAULT, 5000, like(UNIQUE), True),
        (FAULT, 1, like(UNIQUE), False),
        (UNIQUE, 5000, like(UNIQUE), False),
        (UNIQUE, 1, None, False),
        (ENCODER, 5000, None, False),
    ],
)
def test_a_common_fault_opens_it_unless_only_these_rows_are_bad(
    fault: RowFault, rows: int, copied: CopyTrial | None, opens: bool
) -> None:
    breaker = CircuitBreaker()
    assert breaker.judge(fault, rows, copied) == opens
    assert breaker.open_for == (fault if opens else None)


def test_a_copy_that_passes_ends_the_series_of_its_table() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES - 1)
    refuse(breaker, OF_LABELS, LONGEST_SERIES - 1)
    assert not breaker.judge(FAULT, 1, unlike(None))
    assert breaker.refused(FAULT)
    assert not breaker.judge(FAULT, LONGEST_SERIES, like(None))
    assert not breaker.refused(FAULT)
    assert breaker.refused(OF_LABELS)


def refuse(breaker: CircuitBreaker, fault: RowFault, times: int) -> list[bool]:
    return [breaker.refused(fault) for _ in range(times)]


def test_a_series_of_rows_that_are_refused_alone_must_be_judged() -> None:
    breaker = CircuitBreaker()
    assert refuse(breaker, FAULT, LONGEST_SERIES) == [False] * (LONGEST_SERIES - 1) + [True]
    assert breaker.open_for is None
    assert breaker.judge(FAULT, LONGEST_SERIES, unlike(None))
    assert breaker.open_for == FAULT


@pytest.mark.parametrize("fault", [UNIQUE, ENCODER])
def test_a_fault_of_one_row_is_in_no_series_and_ends_none(fault: RowFault) -> None:
    breaker = CircuitBreaker()
    assert not any(refuse(breaker, FAULT, LONGEST_SERIES - 1))
    assert not any(refuse(breaker, fault, 2 * LONGEST_SERIES))
    assert breaker.refused(FAULT)


def test_another_fault_begins_another_series() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES - 1)
    assert refuse(breaker, OTHER, LONGEST_SERIES) == [False] * (LONGEST_SERIES - 1) + [True]


def test_only_an_accepted_row_of_the_same_table_ends_a_series() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES - 1)
    refuse(breaker, OF_LABELS, LONGEST_SERIES - 1)
    breaker.accepted(["labels", "refusals"])
    assert not breaker.refused(OF_LABELS)
    assert breaker.refused(FAULT)


def test_a_series_goes_on_if_no_row_was_accepted_since_it_was_closed() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES)
    breaker.open(FAULT)
    breaker.close()
    assert breaker.open_for is None
    assert breaker.refused(FAULT)
    breaker.close()
    breaker.accepted(["predictions"])
    assert not breaker.refused(FAULT)
    assert breaker.open_for is None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (FAULT, "SQLSTATE 23514, constraint no_v3 of table predictions: correct it"),
        (OTHER, "SQLSTATE 23502, column region of table predictions: correct it"),
        (RowFault("labels", "22001"), "SQLSTATE 22001, table labels: correct it"),
    ],
)
def test_its_error_names_the_fault(fault: RowFault, words: str) -> None:
    error = DatabaseRefusesError(fault)
    assert words in str(error)
    assert error.fault == fault
    assert error.exit_code == 75
