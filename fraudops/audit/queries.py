"""What monitor and drift ask of the audit tables. Every function raises StoreDownError while PostgreSQL is away or has no tables."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Text, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fraudops.audit.database import translated
from fraudops.audit.privacy import ClosedError, Opener
from fraudops.audit.tables import predictions

CHUNK_ROWS = 5_000
# A second's work.
SCANNED_ROWS = 500_000
_HASH_RANGE = 1 << 30
_PLAN = text("""
EXPLAIN (FORMAT JSON) SELECT FROM predictions
WHERE "timestamp" >= :since AND "timestamp" < :until
AND (CAST(:model_name AS text) IS NULL OR model_name = :model_name) AND (CAST(:model_digest AS text) IS NULL OR model_digest = :model_digest)
""")
_features = msgspec.json.Decoder(dict[str, float])


@dataclass(frozen=True)
class Recent:
    """Answered predictions as columns, all of length n and in order of time; `rows` is how many the window holds, of which these may be a sample.

    `closed`: of how many the features cannot be read here, by the reason; `estimated`: `rows` is.
    """

    id: NDArray[np.str_]
    timestamp: NDArray[np.datetime64]
    prediction: NDArray[np.int8]
    probability: NDArray[np.float64]
    features: NDArray[np.float64]
    names: tuple[str, ...]
    rows: int
    closed: dict[str, int] = field(default_factory=dict)
    estimated: bool = False


async def recent(
    engine: AsyncEngine,
    since: datetime,
    until: datetime,
    limit: int,
    names: Sequence[str],
    *,
    model_name: str | None = None,
    model_digest: str | None = None,
    keys: Sequence[bytes] = (),
) -> Recent:
    """The predictions of [since, until), of one model or version if it is named; `features` is (n, len(names)), NaN where a row has no such feature
    or it cannot be read by these keys.

    A window of more than `limit` rows is sampled evenly down to about `limit`: the same window gives the same rows. Up to SCANNED_ROWS that is by
    a hash of the id, and they are counted; beyond by pages, so that the time stays that of `limit` rows, and `rows` is an estimate.
    """
    asked = {"since": since, "until": until, "model_name": model_name, "model_digest": model_digest}
    opening, sampled = _Opening(keys), False
    with translated(str(engine.url)):
        async with engine.connect() as connection:
            rows = await _planned(connection, asked)
            if sampled := rows > max(SCANNED_ROWS, 2 * limit):
                share = limit / rows
                source = predictions.tablesample(func.system(100 * share), name="sampled", seed=text("0"))
                columns = [_columns(chunk, names, opening) async for chunk in await _stream(connection, source.c, asked)]
                rows = round(sum(len(each[0]) for each in columns) / share)
            else:
                rows = int(await connection.scalar(select(func.count()).select_from(predictions).where(*_conditions(predictions.c, asked))) or 0)
                hashed = func.hashtextextended(cast(predictions.c.id, Text), 0).op("&")(_HASH_RANGE - 1)
                evenly = [hashed < _HASH_RANGE * limit // rows] if rows > limit else []
                columns = [_columns(chunk, names, opening) async for chunk in await _stream(connection, predictions.c, asked, *evenly)]
    id_, timestamp, prediction, probability, features = (np.concatenate(parts) for parts in zip(_columns([], names, opening), *columns, strict=True))
    return Recent(id_, timestamp, prediction, probability, features, tuple(names), rows, opening.closed, sampled)


def _conditions(table: Any, asked: Mapping[str, Any]) -> list[Any]:
    named = [table[name] == asked[name] for name in ("model_name", "model_digest") if asked[name] is not None]
    return [table.timestamp >= asked["since"], table.timestamp < asked["until"], *named]


async def _planned(connection: AsyncConnection, asked: Mapping[str, Any]) -> int:
    """About how many rows that is, by PostgreSQL's own statistics: it reads none of them."""
    plan = await connection.scalar(_PLAN, asked)
    return int((msgspec.json.decode(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"])


async def _stream(connection: AsyncConnection, table: Any, asked: Mapping[str, Any], *more: Any) -> AsyncIterator[Sequence[Any]]:
    """Chunks of id, timestamp, prediction, probability, features, sealed features, in order of time."""
    features = (cast(table.features, Text), table.features_sealed)
    wanted = select(table.id, table.timestamp, table.prediction, table.fraud_probability, *features).where(*_conditions(table, asked), *more)
    return (await connection.stream(wanted.order_by(table.timestamp, table.id))).partitions(CHUNK_ROWS)


class _Opening:
    """The features of rows, and why some of them cannot be read."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._opener = Opener(keys)
        self.closed: dict[str, int] = {}

    def features(self, row: Any) -> dict[str, float]:
        if row[5] is None:
            return _features.decode(row[4]) if row[4] else {}
        try:
            return self._opener.open(str(row[0]), row[5])
        except ClosedError as error:
            self.closed[str(error)] = self.closed.get(str(error), 0) + 1
            return {}


def _columns(chunk: Sequence[Any], names: Sequence[str], opening: _Opening) -> tuple[Any, ...]:
    """One chunk as arrays: id, timestamp, prediction, probability, features (n, len(names))."""
    nan = float("nan")
    values = [[found.get(name, nan) for name in names] for found in map(opening.features, chunk)]
    return (
        np.array([row[0] for row in chunk], dtype="U36"),
        np.array([row[1].replace(tzinfo=None) for row in chunk], dtype="datetime64[ms]"),
        np.array([row[2] for row in chunk], dtype=np.int8),
        np.array([row[3] for row in chunk], dtype=np.float64),
        np.array(values, dtype=np.float64).reshape(len(chunk), len(names)),
    )


@dataclass(frozen=True)
class Activity:
    """What was answered in a window, in all or by one version. A transaction sent again is one decision, the earliest; latencies are of all answers."""

    model_version: str | None
    model_digest: str | None
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
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float | None:
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# A label names an answer or a transaction; of those that a decision has, the one labelled last counts.
_ACTIVITY = text("""
WITH answers AS (
    SELECT id, "timestamp", transaction_id, fraud_probability, prediction, latency_ms, model_version, model_digest,
           CASE WHEN transaction_id IS NULL THEN id
                ELSE first_value(id) OVER (PARTITION BY transaction_id ORDER BY "timestamp", id) END AS decision
    FROM predictions
    WHERE "timestamp" >= :since AND "timestamp" < :until AND model_name = :model_name
), truth AS (
    SELECT DISTINCT ON (decision) decision, label FROM (
        SELECT decision, label, labelled_at, received_at, labels.id FROM answers JOIN labels ON labels.prediction_id = answers.id
        UNION ALL
        SELECT decision, label, labelled_at, received_at, labels.id FROM answers JOIN labels ON labels.transaction_id = answers.transaction_id
    ) AS found
    ORDER BY decision, labelled_at DESC, received_at DESC, id DESC
)
SELECT model_version, model_digest,
       count(*) AS answers,
       count(*) FILTER (WHERE id = answers.decision) AS decisions,
       count(*) FILTER (WHERE id = answers.decision AND prediction = 1) AS frauds,
       avg(fraud_probability) FILTER (WHERE id = answers.decision) AS mean_probability,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) AS latencies,
       min("timestamp") AS first, max("timestamp") AS last,
       count(label) AS labelled,
       count(*) FILTER (WHERE label = 1 AND prediction = 1) AS true_positives,
       count(*) FILTER (WHERE label = 0 AND prediction = 1) AS false_positives,
       count(*) FILTER (WHERE label = 1 AND prediction = 0) AS false_negatives,
       count(*) FILTER (WHERE label = 0 AND prediction = 0) AS true_negatives
FROM answers LEFT JOIN truth ON truth.decision = answers.id
GROUP BY GROUPING SETS ((model_version, model_digest), ())
ORDER BY grouping(model_version) DESC, first
""")


async def activity(engine: AsyncEngine, since: datetime, until: datetime, model_name: str) -> tuple[Activity, list[Activity]]:
    """All answers of [since, until), and those of each version in order of its first. Repeats are known within the window only."""
    with translated(str(engine.url)):
        async with engine.connect() as connection:
            result = await connection.execute(_ACTIVITY, {"since": since, "until": until, "model_name": model_name})
            rows = [_activity(row._asdict()) for row in result]
    return rows[0], rows[1:]


def _activity(row: dict[str, Any]) -> Activity:
    p50, p95, p99 = row.pop("latencies") or (None, None, None)
    return Activity(latency_p50_ms=p50, latency_p95_ms=p95, latency_p99_ms=p99, **row)
