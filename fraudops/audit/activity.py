"""What monitor asks of the audit tables: what was answered, how it was decided, how fast, and how
right.

An answer is a repeat when the same transaction_id had been answered in the REPEAT before it;
every other answer is a decision, so that a client who sends a transaction again adds an answer
and no decision. One decision belongs to one window, whatever windows are asked for. An answer
without a transaction_id is a decision. Of the labels that name a decision, its transaction or
one of its repeats, the one labelled last counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fraudops.audit import sampling
from fraudops.audit.database import translated
from fraudops.audit.sampling import INDEXED, SAMPLE_LEVEL, WHOLE, WITHIN
from fraudops.ids import TEST_PREFIX

REPEAT = timedelta(hours=24)
# Of a large window about so many answers are read, and so many of those decided as fraud: at the
# natural prevalence all there are in five million.
SAMPLED_ROWS, SAMPLED_FRAUDS = 50_000, 10_000
NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class Activity:
    """What was answered in a window, in all or by one version.

    Counts are exact where both weights are 1. Else they are estimates: of the answers decided as
    fraud one in `fraud_weight` was read, of the others one in `weight`, `read` in all; `first`
    and `last` are among these. Latencies are of all answers, repeats included. `tests` of the
    answers are tests of the installation, by their transaction_id.
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
        """Half the width of each estimate's 95 % interval, 0 where the figure is exact: what
        reading a share adds, not what chance does to any window.

        Every row is read or not on its own, so an estimated total has the variance sum of w(w -
        1) over the rows read (Horvitz and Thompson, 1952), and a ratio that of its residuals.
        """
        common, fraud, widest = self.weight, self.fraud_weight, max(self.weight, self.fraud_weight)
        found = {
            "answers": _spread(self.answers, widest),
            "decisions": sqrt(
                _spread(self.frauds, fraud) ** 2
                + _spread(self.decisions - self.frauds, common) ** 2
            ),
            "frauds": _spread(self.frauds, fraud),
            "fraud_rate": _ratio_spread(self.frauds, fraud, self.decisions - self.frauds, common),
            "label_coverage": _ratio_spread(
                self.labelled, widest, self.decisions - self.labelled, widest
            ),
            "precision": _ratio_spread(self.true_positives, fraud, self.false_positives, fraud),
            "recall": _ratio_spread(self.true_positives, fraud, self.false_negatives, common),
            "false_positive_rate": _ratio_spread(
                self.false_positives, fraud, self.true_negatives, common
            ),
        }
        return {name: NORMAL_975 * value for name, value in found.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _spread(total: int, weight: int) -> float:
    """The standard error of a total of rows that weigh so much; of which none was read, that of one."""
    return sqrt((weight - 1) * max(total, weight))


def _ratio_spread(part: int, weight: int, rest: int, rest_weight: int) -> float:
    """The standard error of part / (part + rest)."""
    whole = part + rest
    if not whole:
        return 0.0
    ratio = part / whole
    return (
        sqrt((_spread(part, weight) * (1 - ratio)) ** 2 + (_spread(rest, rest_weight) * ratio) ** 2)
        / whole
    )


_COLUMNS = 'id, "timestamp", transaction_id, fraud_probability, prediction, latency_ms, model_version, model_digest'
_ALL = f"SELECT {_COLUMNS}, 1 AS weight, true AS even FROM predictions WHERE {WHOLE} AND model_name = :model_name"  # noqa: S608
# `even`: read at the same rate whatever was decided.
_SAMPLE = " UNION ALL ".join(
    f"SELECT {_COLUMNS}, CAST(:weight_{decision} AS integer), {SAMPLE_LEVEL} = ANY(CAST(:even AS integer[])) FROM predictions "  # noqa: S608
    f"WHERE prediction = {decision} AND {SAMPLE_LEVEL} = ANY(CAST(:rare_{decision} AS integer[])) AND {INDEXED} AND {WITHIN} AND model_name = :model_name"
    for decision in (0, 1)
)
# Each answer is looked up on its own, by index: what one costs does not depend on what the window
# or the table holds. IS TRUE keeps the primary key out of it, which would lead through a day of ids
# to the few of one transaction.
_ACTIVITY = """
WITH answers (id, "timestamp", transaction_id, fraud_probability, prediction, latency_ms, model_version, model_digest, weight, even)
AS MATERIALIZED ({source}), decided AS MATERIALIZED (
    SELECT answers.*, NOT EXISTS (
        SELECT FROM predictions earlier
        WHERE earlier.transaction_id = answers.transaction_id AND earlier.model_name = :model_name AND (earlier.id < answers.id) IS TRUE
          AND earlier."timestamp" >= answers."timestamp" - CAST(:repeat AS interval) AND earlier."timestamp" <= answers."timestamp"
    ) AS decision
    FROM answers
), judged AS (
    SELECT decided.*, truth.label
    FROM decided LEFT JOIN LATERAL (
        SELECT label FROM (
            SELECT label, labelled_at, received_at, labels.id FROM labels WHERE labels.prediction_id = decided.id
            UNION ALL
            SELECT label, labelled_at, received_at, labels.id FROM labels WHERE labels.transaction_id = decided.transaction_id
            UNION ALL
            SELECT label, labelled_at, received_at, labels.id FROM predictions later JOIN labels ON labels.prediction_id = later.id
            WHERE later.transaction_id = decided.transaction_id AND later.model_name = :model_name AND (later.id > decided.id) IS TRUE
              AND later."timestamp" >= decided."timestamp" AND later."timestamp" <= decided."timestamp" + CAST(:repeat AS interval)
        ) AS named
        ORDER BY labelled_at DESC, received_at DESC, id DESC LIMIT 1
    ) AS truth ON decided.decision
)
SELECT model_version, model_digest,
       count(*) AS read,
       coalesce(sum(weight), 0) AS answers,
       coalesce(sum(weight) FILTER (WHERE decision), 0) AS decisions,
       coalesce(sum(weight) FILTER (WHERE decision AND prediction = 1), 0) AS frauds,
       sum(weight * fraud_probability) FILTER (WHERE decision) / nullif(sum(weight) FILTER (WHERE decision), 0) AS mean_probability,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE even) AS latencies,
       min("timestamp") AS first, max("timestamp") AS last,
       coalesce(sum(weight) FILTER (WHERE label IS NOT NULL), 0) AS labelled,
       coalesce(sum(weight) FILTER (WHERE label = 1 AND prediction = 1), 0) AS true_positives,
       coalesce(sum(weight) FILTER (WHERE label = 0 AND prediction = 1), 0) AS false_positives,
       coalesce(sum(weight) FILTER (WHERE label = 1 AND prediction = 0), 0) AS false_negatives,
       coalesce(sum(weight) FILTER (WHERE label = 0 AND prediction = 0), 0) AS true_negatives,
       coalesce(sum(weight) FILTER (WHERE starts_with(transaction_id, '{tests}')), 0) AS tests
FROM judged
GROUP BY GROUPING SETS ((model_version, model_digest), ())
ORDER BY grouping(model_version) DESC, first
"""
EXACT, SAMPLED = (
    text(_ACTIVITY.format(source=source, tests=TEST_PREFIX)) for source in (_ALL, _SAMPLE)
)


async def activity(
    engine: AsyncEngine, since: datetime, until: datetime, model_name: str
) -> tuple[Activity, list[Activity]]:
    """All answers of [since, until), and those of each version in order of its first: exact, or of
    more than EXACT_ROWS estimated in the same time.
    """
    asked = sampling.query_parameters(since, until, model_name)
    with translated(str(engine.url)):
        async with engine.connect() as connection:
            chosen = await levels(connection, asked)
            result = await connection.execute(*statement(asked, *chosen))
            rows = [_activity(row._asdict(), *chosen) for row in result]
    return rows[0], rows[1:]


async def levels(connection: AsyncConnection, asked: Mapping[str, Any]) -> tuple[int, int]:
    """Of the others and of those decided as fraud: one row in 2^level is read."""
    window = await sampling.look(connection, asked)
    if window.small:
        return 0, 0
    return window.others.level(SAMPLED_ROWS, sampling.INDEXED_LEVEL), window.frauds.level(
        SAMPLED_FRAUDS
    )


def statement(asked: Mapping[str, Any], level: int, fraud_level: int) -> tuple[Any, dict[str, Any]]:
    """The statement and its parameters."""
    names = ["since", "until", "model_name"]
    if not level and not fraud_level:
        return EXACT, {name: asked[name] for name in (*names, "lowest", "beyond")} | {
            "repeat": REPEAT
        }
    rare = {
        "rare_0": sampling.sample_levels(level),
        "rare_1": sampling.sample_levels(fraud_level),
        "even": sampling.sample_levels(max(level, fraud_level)),
    }
    return SAMPLED, {name: asked[name] for name in names} | rare | {
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
