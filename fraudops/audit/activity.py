"""Recent traffic for `fraudops monitor`: volume, decisions, latency, precision and recall.

An answer is a repeat when the same transaction_id was answered within the time REPEAT before it.
Every other answer is a decision, also an answer without a transaction_id. A client that sends a
transaction again therefore adds an answer and no decision. The queried window has no influence on
which answers are decisions.

A label may name a decision, its transaction, or one of its repeats. Of several labels, the first in
the order `labels.PRECEDENCE` counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fraudops.audit import sampling
from fraudops.audit.activity_sql import EXACT, SAMPLED
from fraudops.audit.database import shown_url, translated
from fraudops.audit.sampling import ratio_spread, spread

REPEAT = timedelta(hours=24)
# The approximate numbers of answers and of fraud decisions that are read of a large window. At the
# natural prevalence, five million answers have fewer than 10,000 frauds, so all of them are read.
SAMPLED_ROWS, SAMPLED_FRAUDS = 50_000, 10_000


@dataclass(frozen=True)
class Activity:
    """Figures of the answers in a window, of all versions or of one.

    Counts are exact if both weights are 1. Otherwise they are estimates: one in `fraud_weight` of
    the answers decided as fraud was read, and one in `weight` of the others. `read` is the number
    of rows read; `first` and `last` are times of such rows. Latencies include repeats. `tests`
    counts answers to tests of the installation, by their transaction_id.
    """

    model_version: str | None
    model_digest: str | None
    read: int
    weight: int
    fraud_weight: int
    answers: int
    decisions: int
    frauds: int
    mean_probability: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    first: datetime | None
    last: datetime | None
    labelled: int
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    tests: int = 0

    @property
    def estimated(self) -> bool:
        return self.weight > 1 or self.fraud_weight > 1

    @property
    def fraud_rate(self) -> float | None:
        return _ratio(self.frauds, self.decisions)

    @property
    def label_coverage(self) -> float | None:
        return _ratio(self.labelled, self.decisions)

    @property
    def precision(self) -> float | None:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        return _ratio(
            2 * self.true_positives,
            2 * self.true_positives + self.false_positives + self.false_negatives,
        )

    @property
    def false_positive_rate(self) -> float | None:
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)

    def margins(self) -> dict[str, float]:
        """Return half the width of each estimate's 95 % interval, 0 for an exact figure.

        It covers the error of sampling only, not the random variation between windows. Each row is
        sampled independently, so that an estimated total has the variance sum of w(w - 1) over the
        rows read (Horvitz and Thompson, 1952). A ratio has the variance of its residuals.
        """
        common, fraud, widest = self.weight, self.fraud_weight, max(self.weight, self.fraud_weight)
        errors = {
            "answers": spread(self.answers, widest),
            "decisions": sqrt(
                spread(self.frauds, fraud) ** 2 + spread(self.decisions - self.frauds, common) ** 2
            ),
            "frauds": spread(self.frauds, fraud),
            "fraud_rate": ratio_spread(self.frauds, fraud, self.decisions - self.frauds, common),
            "label_coverage": ratio_spread(
                self.labelled, widest, self.decisions - self.labelled, widest
            ),
            "precision": ratio_spread(self.true_positives, fraud, self.false_positives, fraud),
            "recall": ratio_spread(self.true_positives, fraud, self.false_negatives, common),
            "false_positive_rate": ratio_spread(
                self.false_positives, fraud, self.true_negatives, common
            ),
        }
        return {name: sampling.NORMAL_975 * error for name, error in errors.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


async def activity(
    engine: AsyncEngine, since: datetime, until: datetime, model_name: str
) -> tuple[Activity, list[Activity]]:
    """Return the figures of the answers of [since, until), and those of each version.

    Versions are in the order of their first answers. Figures are exact for up to about EXACT_ROWS
    rows. Above that they are estimates, and the query time does not grow. Raises StoreDownError.
    """
    parameters = sampling.query_parameters(since, until, model_name)
    with translated(shown_url(engine)):
        async with engine.connect() as connection:
            chosen = await levels(connection, parameters)
            result = await connection.execute(*statement(parameters, *chosen))
            rows = [_activity(row._asdict(), *chosen) for row in result]
    return rows[0], rows[1:]


async def levels(connection: AsyncConnection, parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Choose the sample levels of the answers decided as no fraud and as fraud."""
    window = await sampling.estimate_window(connection, parameters)
    if window.small:
        return 0, 0
    return window.others.level(SAMPLED_ROWS, sampling.INDEXED_LEVEL), window.frauds.level(
        SAMPLED_FRAUDS
    )


def statement(
    parameters: Mapping[str, Any], level: int, fraud_level: int
) -> tuple[Any, dict[str, Any]]:
    """Return the statement for the sample levels, and its parameters."""
    names = ["since", "until", "model_name"]
    if not level and not fraud_level:
        return EXACT, {name: parameters[name] for name in (*names, "lowest", "beyond")} | {
            "repeat": REPEAT
        }
    lowest_bits = {
        "lowest_bits_0": sampling.sample_levels(level),
        "lowest_bits_1": sampling.sample_levels(fraud_level),
        "even": sampling.sample_levels(max(level, fraud_level)),
    }
    return SAMPLED, {name: parameters[name] for name in names} | lowest_bits | {
        "weight_0": 1 << level,
        "weight_1": 1 << fraud_level,
        "repeat": REPEAT,
    }


def _activity(row: dict[str, Any], level: int, fraud_level: int) -> Activity:
    p50, p95, p99 = row.pop("latencies") or (None, None, None)
    return Activity(
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        weight=1 << level,
        fraud_weight=1 << fraud_level,
        **row,
    )
