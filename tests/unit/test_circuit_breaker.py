"""The circuit breaker of the shipper: what opens it, what keeps it open, what closes it."""

import pytest

from services.shipper.circuit_breaker import (
    LONGEST_SERIES,
    SAMPLE,
    CircuitBreaker,
    DatabaseRefusesError,
    RowFault,
)

FAULT = RowFault("predictions", "23514", "constraint no_v3")
OTHER = RowFault("predictions", "23502", "column region")
OF_LABELS = RowFault("labels", "23514", "constraint no_v3")
UNIQUE = RowFault("predictions", "23505", "constraint one_pod")
ENCODER = RowFault("predictions", "")


@pytest.mark.parametrize(
    ("tried", "group", "copied", "opens"),
    [
        ([FAULT] * SAMPLE, SAMPLE, None, True),
        ([FAULT] * SAMPLE, 5000, None, True),
        ([FAULT] * 7 + [None], 5000, FAULT, False),
        ([None], 5000, FAULT, False),
        ([FAULT] * 7 + [OTHER], 5000, FAULT, False),
        ([UNIQUE] * SAMPLE, 5000, UNIQUE, False),
        ([ENCODER] * SAMPLE, 5000, ENCODER, False),
        ([FAULT], 1, FAULT, True),
        ([FAULT] * 7, SAMPLE - 1, FAULT, True),
        ([FAULT], 1, None, False),
        ([FAULT] * 7, SAMPLE - 1, None, False),
        ([FAULT], 1, OTHER, False),
        ([FAULT], 1, UNIQUE, False),
        ([UNIQUE], 1, UNIQUE, False),
        ([], 0, FAULT, False),
    ],
)
def test_a_group_opens_it_when_all_tried_rows_have_one_fault_of_the_database(
    tried: list[RowFault | None], group: int, copied: RowFault | None, opens: bool
) -> None:
    breaker = CircuitBreaker()
    assert breaker.judge(tried, group, copied) == (FAULT if opens else None)
    assert breaker.open_for == (FAULT if opens else None)


def refuse(breaker: CircuitBreaker, fault: RowFault, times: int) -> list[bool]:
    return [breaker.refused(fault) for _ in range(times)]


def test_a_series_of_rows_that_are_refused_alone_opens_it() -> None:
    breaker = CircuitBreaker()
    assert refuse(breaker, FAULT, LONGEST_SERIES) == [False] * (LONGEST_SERIES - 1) + [True]
    assert breaker.open_for == FAULT


@pytest.mark.parametrize("fault", [UNIQUE, ENCODER])
def test_a_fault_of_one_row_never_opens_it_and_ends_no_series(fault: RowFault) -> None:
    breaker = CircuitBreaker()
    assert not any(refuse(breaker, FAULT, LONGEST_SERIES - 1))
    assert not any(refuse(breaker, fault, 2 * LONGEST_SERIES))
    assert breaker.refused(FAULT)


def test_another_fault_begins_another_series() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES - 1)
    assert refuse(breaker, OTHER, LONGEST_SERIES) == [False] * (LONGEST_SERIES - 1) + [True]
    assert breaker.open_for == OTHER


def test_only_an_accepted_row_of_the_same_table_ends_a_series() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES - 1)
    refuse(breaker, OF_LABELS, LONGEST_SERIES - 1)
    breaker.accepted(["labels", "refusals"])
    assert not breaker.refused(OF_LABELS)
    assert breaker.refused(FAULT)


def test_it_opens_again_at_once_if_no_row_was_accepted_since_it_was_closed() -> None:
    breaker = CircuitBreaker()
    refuse(breaker, FAULT, LONGEST_SERIES)
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
