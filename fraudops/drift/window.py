"""The rows that drift asks of the audit tables.

Raises StoreDownError while PostgreSQL is away or has no tables.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fraudops.audit import sampling
from fraudops.audit.database import translated
from fraudops.audit.sampling import (
    INDEXED,
    INDEXED_LEVEL,
    MODEL_FILTER,
    SAMPLE_KEY,
    SAMPLE_LEVEL,
    WHOLE,
    WITHIN,
)
from fraudops.feature_encryption import FeatureDecryptor, FeaturesUnreadableError

CHUNK_ROWS = 5_000
_READ = 'SELECT id, "timestamp", prediction, fraud_probability, CAST(features AS text), features_sealed FROM predictions'
_COUNT = text(f"SELECT count(*) FROM predictions WHERE {WHOLE} AND {MODEL_FILTER}")  # noqa: S608
_WHOLE = text(
    f'{_READ} WHERE {WHOLE} AND {MODEL_FILTER} AND {SAMPLE_KEY} < :lots ORDER BY "timestamp", id'
)
_SAMPLE = text(f"""{_READ} WHERE prediction IN (0, 1) AND {SAMPLE_LEVEL} = ANY(CAST(:rare AS integer[])) AND {INDEXED} AND {WITHIN} AND {MODEL_FILTER}
ORDER BY "timestamp", id""")
_features = msgspec.json.Decoder(dict[str, float])


@dataclass(frozen=True)
class Recent:
    """Answered predictions as columns, all of length n and in order of time;

    `rows` is how many the window holds, of which these may be a sample.

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
    """The predictions of [since, until), of one model or version if it is named;

    `features` is (n, len(names)), NaN where a row has no such feature or it cannot be read by
    these keys.

    A window of more than `limit` rows is sampled evenly down to about `limit`: the same window
    gives the same rows. One of about EXACT_ROWS, whosever they are, is counted; of a larger one
    `rows` is an estimate, and the time stays that of the rows read.
    """
    asked = sampling.query_parameters(since, until, model_name, model_digest)
    opening = _Opening(keys)
    with translated(str(engine.url)):
        async with engine.connect() as connection:
            window = await sampling.estimate_window(connection, asked)
            level = 0 if window.small else window.all.level(limit, INDEXED_LEVEL)
            rows = 0 if level else int(await connection.scalar(_COUNT, _filled(_COUNT, asked)) or 0)
            drawn = await _stream(
                connection, *selection(asked, level, limit / rows if rows > limit else 1.0)
            )
            columns = [_columns(chunk, names, opening) async for chunk in drawn]
    id_, timestamp, prediction, probability, features = (
        np.concatenate(parts) for parts in zip(_columns([], names, opening), *columns, strict=True)
    )
    return Recent(
        id_,
        timestamp,
        prediction,
        probability,
        features,
        tuple(names),
        len(id_) << level if level else rows,
        opening.closed,
        level > 0,
    )


def selection(
    asked: Mapping[str, Any], level: int, share: float = 1.0
) -> tuple[TextClause, dict[str, Any]]:
    """The statement and its parameters: one row in 2^level of the window by index, or with level 0
    this share of it.
    """
    if level:
        return _SAMPLE, _filled(_SAMPLE, {**asked, "rare": sampling.sample_levels(level)})
    return _WHOLE, _filled(_WHOLE, {**asked, "lots": ceil(share * (1 << sampling.BITS))})


def _filled(statement: TextClause, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asked[name] for name in statement.compile().params}


async def _stream(
    connection: AsyncConnection, statement: TextClause, parameters: Mapping[str, Any]
) -> AsyncIterator[Sequence[Any]]:
    return (await connection.stream(statement, parameters)).partitions(CHUNK_ROWS)


class _Opening:
    """The features of rows, and why some of them cannot be read."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._opener = FeatureDecryptor(keys)
        self.closed: dict[str, int] = {}

    def features(self, row: Any) -> dict[str, float]:
        if row[5] is None:
            return _features.decode(row[4]) if row[4] else {}
        try:
            return self._opener.open(str(row[0]), row[5])
        except FeaturesUnreadableError as error:
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
