"""Gates that a trained version must pass before it may serve.

Each gate is a function from measured values to results. It does no I/O and reads no clock.
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
    """Limits of the gates, with the resamples and the seed of their bootstrap.

    * `roc_auc`: the candidate must be above this.
    * `average_precision`: the candidate must not be below this, at the natural prevalence.
    * `roc_auc_difference` and `average_precision_difference`: the lower 95 % bound of candidate
      minus production must not be below this.
    * `latency_ms`: the median time of scoring one row must not be above this.
    * `scorer_difference`: limits the tolerance that a bundle states for its own scorer.
    * `decision_flips`: number of rows on which scorer and pipeline may decide differently.
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
    """The result of one gate: the measured value, its limit, and the reason in a sentence.

    `sign` compares `value` with `limit`, for example ">=".
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    detail: str
    sign: str = ""


@dataclass(frozen=True)
class Parity:
    """The differences between the compiled scorer and the pipeline over `rows` rows.

    `difference` is the largest difference of probability. `mismatches` counts decisions that
    differ.
    """

    difference: float
    tolerance: float
    mismatches: int
    rows: int


def intact(fault: str | None, files: int = 0) -> GateResult:
    """Judge the bundle: `fault` says why it was refused, and is None for a sound one."""
    sound = (
        f"{files} files, all with the registered digests; "
        "the pipeline holds only types that fraudops trusts"
    )
    return GateResult(BUNDLE, None, None, fault is None, fault or sound)


def discriminates(
    metrics: dict[str, Interval], settings: GateSettings, prevalence: float | None
) -> list[GateResult]:
    """Judge ROC-AUC and average precision of the test rows. NaN fails."""
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
    """Judge whether training saw test rows: `seen` of the `tested` rows, which must be 0.

    `trained` is the number of rows that training saw. The gate fails if the bundle names none.
    """
    if trained == 0:
        return GateResult(
            TEST_ROWS,
            None,
            0,
            False,
            "the bundle does not name the rows that it was trained on, so it is unknown whether "
            "test rows are among them; train the version again",
            "=",
        )
    detail = f"none of {tested:,} test rows is among the {trained:,} rows that training saw"
    if seen:
        detail = (
            f"{seen:,} of {tested:,} test rows are among the rows that training saw: "
            "the metrics are not valid; train on the train part alone"
        )
    return GateResult(TEST_ROWS, seen, 0, seen == 0, detail, "=")


def scores_as_its_pipeline(parity: Parity, settings: GateSettings) -> list[GateResult]:
    """Compare compiled scorer and pipeline, and their decisions at the version's threshold."""
    # A bundle states its own tolerance, so a setting limits it.
    limit = min(parity.tolerance, settings.scorer_difference)
    difference = (
        f"largest difference of probability between scorer and pipeline over {parity.rows:,} rows"
    )
    mismatches = f"of {parity.rows:,} decisions differ between scorer and pipeline"
    return [
        GateResult(PARITY, parity.difference, limit, parity.difference <= limit, difference, "<="),
        GateResult(
            DECISION_MISMATCHES,
            parity.mismatches,
            settings.decision_flips,
            parity.mismatches <= settings.decision_flips,
            mismatches,
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
    """Judge the differences candidate minus production, by metric (the keys of COMPARED).

    They are from a paired bootstrap. The lower 95 % bound decides.
    """
    return [
        GateResult(
            COMPARED[metric],
            differences[metric].lower,
            limit,
            differences[metric].lower >= limit,
            f"lower bound of the difference to version {production}: "
            f"{differences[metric].value:+.4f} ({_bounds(differences[metric])})",
            ">=",
        )
        for metric, limit in _difference_limits(settings).items()
    ]


def not_compared(reason: str, settings: GateSettings, passed: bool) -> list[GateResult]:
    """Return both comparisons without a value.

    `passed` is true if there is nothing to compare with. It is false if a comparison was required
    and could not be made.
    """
    return [
        GateResult(COMPARED[metric], None, limit, passed, reason, ">=")
        for metric, limit in _difference_limits(settings).items()
    ]


def _difference_limits(settings: GateSettings) -> dict[str, float]:
    return {
        "roc_auc": settings.roc_auc_difference,
        "average_precision": settings.average_precision_difference,
    }


def _interval(interval: Interval) -> str:
    return f"95 % interval {_bounds(interval)}"


def _bounds(interval: Interval) -> str:
    return f"{interval.lower:.4f} to {interval.upper:.4f}"
