"""The gates between a trained version and production: measured values in, judgements out.

No I/O, no clock, no settings but those given.
"""

from dataclasses import dataclass

from fraudops.model.manifest import Interval

BUNDLE = "bundle"
ROC_AUC = "roc_auc"
AVERAGE_PRECISION = "average_precision"
TEST_ROWS = "trained_on_test_rows"
PARITY = "scorer_parity"
DECISION_MISMATCHES = "decision_flips"
LATENCY = "latency_ms"
COMPARED = {
    "roc_auc": "roc_auc_against_production",
    "average_precision": "average_precision_against_production",
}


@dataclass(frozen=True)
class GateSettings:
    """`roc_auc` must be exceeded, `average_precision` (at the natural prevalence) reached; the two
    differences are the lowest allowed lower 95 % bounds of candidate minus production;
    `latency_ms` bounds the median of scoring one row, `scorer_difference` what a bundle may
    allow its own scorer.
    """

    roc_auc: float = 0.90
    average_precision: float = 0.60
    roc_auc_difference: float = -0.02
    average_precision_difference: float = -0.10
    latency_ms: float = 5.0
    scorer_difference: float = 1e-4
    decision_flips: int = 0
    resamples: int = 200
    seed: int = 7


@dataclass(frozen=True)
class GateResult:
    """One judgement: what was measured, what was allowed (`sign` says on which side of `limit` the
    value must lie), and why in a sentence.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    detail: str
    sign: str = ""


@dataclass(frozen=True)
class Parity:
    """How far compiled scorer and pipeline are apart: the largest difference of probability, and
    how many decisions differ, over `rows` rows.
    """

    difference: float
    tolerance: float
    mismatches: int
    rows: int


def intact(fault: str | None, files: int = 0) -> GateResult:
    """`fault` is why the bundle is not the registered one, or may not be opened;

    None when it is sound.
    """
    good = f"{files} files, all with the registered digests; the pipeline holds only types that fraudops trusts"
    return GateResult(BUNDLE, None, None, fault is None, fault or good)


def discriminates(
    metrics: dict[str, Interval], settings: GateSettings, prevalence: float | None
) -> list[GateResult]:
    """ROC-AUC and average precision of the test rows. A value that is not a number fails."""
    at = "the data as collected" if prevalence is None else f"prevalence {prevalence:g}"
    auc, precision = metrics["roc_auc"], metrics["average_precision"]
    return [
        GateResult(
            ROC_AUC, auc.value, settings.roc_auc, auc.value > settings.roc_auc, _interval(auc), ">"
        ),
        GateResult(
            AVERAGE_PRECISION,
            precision.value,
            settings.average_precision,
            precision.value >= settings.average_precision,
            f"{_interval(precision)}, at {at}",
            ">=",
        ),
    ]


def untrained_on_test_rows(seen: int, tested: int, trained: int) -> GateResult:
    """`seen` of the `tested` rows are among the `trained` ones.

    A bundle that names no row that it was trained on proves nothing and fails.
    """
    if trained == 0:
        return GateResult(
            TEST_ROWS,
            None,
            0,
            False,
            "the bundle does not name the rows it was trained on, so nothing shows that the test is fair",
            "=",
        )
    detail = f"none of {tested:,} test rows is among the {trained:,} rows that training saw"
    if seen:
        detail = f"{seen:,} of {tested:,} test rows are among the rows that training saw: its metrics are worth nothing; train on the train part alone"
    return GateResult(TEST_ROWS, seen, 0, seen == 0, detail, "=")


def scores_as_its_pipeline(parity: Parity, settings: GateSettings) -> list[GateResult]:
    """The compiled scorer against the pipeline, and the decisions of both at the version's threshold."""
    limit = min(parity.tolerance, settings.scorer_difference)
    apart = (
        f"largest difference of probability between scorer and pipeline over {parity.rows:,} rows"
    )
    flips = f"of {parity.rows:,} decisions differ between scorer and pipeline"
    return [
        GateResult(PARITY, parity.difference, limit, parity.difference <= limit, apart, "<="),
        GateResult(
            DECISION_MISMATCHES,
            parity.mismatches,
            settings.decision_flips,
            parity.mismatches <= settings.decision_flips,
            flips,
            "<=",
        ),
    ]


def fast_enough(median_ms: float, rows: int, settings: GateSettings) -> GateResult:
    return GateResult(
        LATENCY,
        median_ms,
        settings.latency_ms,
        median_ms <= settings.latency_ms,
        f"median of scoring one row, {rows} times",
        "<=",
    )


def not_worse(
    differences: dict[str, Interval], production: str, settings: GateSettings
) -> list[GateResult]:
    """Candidate minus production from a paired bootstrap, by metric (the keys of COMPARED): the
    lower 95 % bound decides.
    """
    limits = {
        "roc_auc": settings.roc_auc_difference,
        "average_precision": settings.average_precision_difference,
    }
    return [
        GateResult(
            COMPARED[metric],
            differences[metric].lower,
            limit,
            differences[metric].lower >= limit,
            f"lower bound of the difference to version {production}: {differences[metric].value:+.4f} ({_bounds(differences[metric])})",
            ">=",
        )
        for metric, limit in limits.items()
    ]


def not_compared(reason: str, settings: GateSettings, passed: bool) -> list[GateResult]:
    """Both comparisons without a value: passed where there is nothing to compare with, failed where
    a comparison was due and could not be made.
    """
    limits = {
        "roc_auc": settings.roc_auc_difference,
        "average_precision": settings.average_precision_difference,
    }
    return [
        GateResult(COMPARED[metric], None, limit, passed, reason, ">=")
        for metric, limit in limits.items()
    ]


def _interval(interval: Interval) -> str:
    return f"95 % interval {_bounds(interval)}"


def _bounds(interval: Interval) -> str:
    return f"{interval.lower:.4f} to {interval.upper:.4f}"
