"""Reads the predictions of a time window from the audit tables.

Raises StoreDownError while PostgreSQL is unavailable or has no tables.
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
from fraudops.audit.database import shown_url, translated
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
_READ = (
    'SELECT id, "timestamp", prediction, fraud_probability, CAST(features AS text), '
    "features_sealed FROM predictions"
)
_COUNT = text(f"SELECT count(*) FROM predictions WHERE {WHOLE} AND {MODEL_FILTER}")  # noqa: S608
_WHOLE = text(
    f'{_READ} WHERE {WHOLE} AND {MODEL_FILTER} AND {SAMPLE_KEY} < :lots ORDER BY "timestamp", id'
)
# `prediction IN (0, 1)` excludes no row: it is the first column of the index `predictions_sample`.
# Without a condition on it the planner could not search the index by the sample level.
_SAMPLE = text(f"""{_READ}
WHERE prediction IN (0, 1) AND {SAMPLE_LEVEL} = ANY(CAST(:rare AS integer[]))
AND {INDEXED} AND {WITHIN} AND {MODEL_FILTER}
ORDER BY "timestamp", id""")
_features = msgspec.json.Decoder(dict[str, float])


@dataclass(frozen=True)
class Recent:
    """Predictions as columns of length n, in time order. `features` is (n, len(names)).

    `rows` is the number of predictions in the window, an estimate if `estimated`. The columns may
    be a sample of them. `unreadable` counts the predictions whose features cannot be decrypted, by
    reason.
    """

    id: NDArray[np.str_]
    timestamp: NDArray[np.datetime64]
    prediction: NDArray[np.int8]
    probability: NDArray[np.float64]
    features: NDArray[np.float64]
    names: tuple[str, ...]
    rows: int
    unreadable: dict[str, int] = field(default_factory=dict)
    estimated: bool = False

    def main_reason(self) -> str:
        """Return the most frequent reason in `unreadable`, which must not be empty."""
        return max(self.unreadable, key=lambda reason: self.unreadable[reason])


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
    """Read the predictions of [since, until), of all models or only of one name or digest.

    A feature is NaN where the row does not have it, or where these keys cannot decrypt the row.

    A window of more than `limit` rows is sampled evenly down to about `limit` rows. The same window
    gives the same sample. `rows` is exact up to about EXACT_ROWS rows of all models together and an
    estimate above that, so the query time depends on the rows read and not on the window.
    """
    parameters = sampling.query_parameters(since, until, model_name, model_digest)
    reader = _FeatureReader(keys)
    with translated(shown_url(engine)):
        async with engine.connect() as connection:
            window = await sampling.estimate_window(connection, parameters)
            level = 0 if window.small else window.all.level(limit, INDEXED_LEVEL)
            # Level 0 reads the table itself and needs the exact count for the share to read. A
            # higher level reads one row in 2^level by index; a count would read the whole window.
            rows = 0 if level else await _count(connection, parameters)
            share = limit / rows if rows > limit else 1.0
            chunks = await _stream(connection, *selection(parameters, level, share))
            columns = [_columns(chunk, names, reader) async for chunk in chunks]
    # The empty first chunk gives every column its type when the window has no rows.
    id_, timestamp, prediction, probability, features = (
        np.concatenate(parts) for parts in zip(_columns([], names, reader), *columns, strict=True)
    )
    return Recent(
        id_,
        timestamp,
        prediction,
        probability,
        features,
        tuple(names),
        len(id_) << level if level else rows,
        reader.unreadable,
        level > 0,
    )


async def _count(connection: AsyncConnection, parameters: Mapping[str, Any]) -> int:
    return int(await connection.scalar(_COUNT, _bound(_COUNT, parameters)) or 0)


def selection(
    parameters: Mapping[str, Any], level: int, share: float = 1.0
) -> tuple[TextClause, dict[str, Any]]:
    """Return the statement that selects predictions, and its parameters.

    It selects one row in 2^level of the window by index. With level 0 it selects this share of the
    window.
    """
    if level:
        return _SAMPLE, _bound(_SAMPLE, {**parameters, "rare": sampling.sample_levels(level)})
    return _WHOLE, _bound(_WHOLE, {**parameters, "lots": ceil(share * (1 << sampling.BITS))})


def _bound(statement: TextClause, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the parameters of the statement, because SQLAlchemy refuses others."""
    return {name: parameters[name] for name in statement.compile().params}


async def _stream(
    connection: AsyncConnection, statement: TextClause, parameters: Mapping[str, Any]
) -> AsyncIterator[Sequence[Any]]:
    return (await connection.stream(statement, parameters)).partitions(CHUNK_ROWS)


class _FeatureReader:
    """Reads the features of rows, and counts the reasons why some cannot be decrypted."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._decryptor = FeatureDecryptor(keys)
        self.unreadable: dict[str, int] = {}

    def features(self, row: Any) -> dict[str, float]:
        if row[5] is None:
            return _features.decode(row[4]) if row[4] else {}
        try:
            return self._decryptor.open(str(row[0]), row[5])
        except FeaturesUnreadableError as error:
            reason = str(error)
            self.unreadable[reason] = self.unreadable.get(reason, 0) + 1
            return {}


def _columns(chunk: Sequence[Any], names: Sequence[str], reader: _FeatureReader) -> tuple[Any, ...]:
    """Return a chunk as arrays: id, timestamp, prediction, probability, features.

    `features` has the shape (n, len(names)); the others have the shape (n,).
    """
    nan = float("nan")
    values = [[row.get(name, nan) for name in names] for row in map(reader.features, chunk)]
    return (
        np.array([row[0] for row in chunk], dtype="U36"),
        np.array([row[1].replace(tzinfo=None) for row in chunk], dtype="datetime64[ms]"),
        np.array([row[2] for row in chunk], dtype=np.int8),
        np.array([row[3] for row in chunk], dtype=np.float64),
        np.array(values, dtype=np.float64).reshape(len(chunk), len(names)),
    )
