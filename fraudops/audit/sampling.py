"""Sampling for queries of a window of time.

A small window is read in full. A large one is sampled by the random low bits of each id, so that
query time depends on the sample and not on the window.

The last 16 bits of an id are its sample key, and are random. Its lowest set bit is geometrically
distributed: it is 1 for half of all rows, 2 for a quarter, 4 for an eighth. "Lowest set bit >= 2^n,
or no bit set" therefore selects one row in 2^n. n is the sample level.

The index `predictions_sample` covers every fraud decision and one in eight of the others, by
decision, lowest set bit and time. Scanning it yields a deterministic, even sample, and reads no
other row. A partition without its part of the index (fraudops.audit.indexing) gives the same
sample, more slowly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log2, sqrt
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# The 97.5 % quantile of the normal distribution, for intervals of 95 %.
NORMAL_975 = 1.959963984540054
# A window of about this many rows is read in full, which takes a few seconds.
EXACT_ROWS = 200_000
BITS = 16
# The index covers one in 2^INDEXED_LEVEL of the rows that were not decided as fraud.
INDEXED_LEVEL = 3
# The level of the small sample that estimates the size of a window.
PILOT_LEVEL = 10
SAMPLE_KEY = "(get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15))"
# The lowest set bit of the key. The planner uses the index only if this expression and INDEXED are
# the same as in the migration r0003.
SAMPLE_LEVEL = f"({SAMPLE_KEY} & -{SAMPLE_KEY})"
INDEXED = f"(prediction = 1 OR {SAMPLE_KEY} & 7 = 0)"
MODEL_FILTER = (
    "(CAST(:model_name AS text) IS NULL OR model_name = :model_name) "
    "AND (CAST(:model_digest AS text) IS NULL OR model_digest = :model_digest)"
)
WITHIN = '"timestamp" >= :since AND "timestamp" < :until'
# The range of ids selects the same rows, and lets the planner use the primary key. A window of a
# part of a day needs that.
WHOLE = f"{WITHIN} AND id >= CAST(:lowest AS uuid) AND id < CAST(:beyond AS uuid)"
# Without statistics the planner would scan the whole table. The queries read too few rows for JIT
# compilation to save time.
PLANNER_SETTINGS = (text("SET LOCAL enable_seqscan = off"), text("SET LOCAL jit = off"))
_PILOT = text(f"""
SELECT prediction, count(*) AS rows, count(*) FILTER (WHERE {MODEL_FILTER}) AS matching
FROM predictions
WHERE prediction IN (0, 1) AND {SAMPLE_LEVEL} = ANY(CAST(:lowest_bits AS integer[]))
  AND {INDEXED} AND {WITHIN}
GROUP BY prediction
""")  # noqa: S608 (only our own constants enter the statement)


@dataclass(frozen=True)
class Stratum:
    """Estimates for the rows of one decision in a window; `matching` rows are of the model."""

    rows: float = 0.0
    matching: float = 0.0

    def level(self, most: int, least: int = 0) -> int:
        """Return the lowest sample level that gives at most about `most` matching rows.

        It is at least `least`. It also limits the rows of all models that are read, to about
        EXACT_ROWS or `most`.
        """
        excess = max(self.matching / most, self.rows / max(most, EXACT_ROWS))
        return min(BITS, max(least, ceil(log2(excess)) if excess > 1 else 0))


@dataclass(frozen=True)
class WindowEstimate:
    """The estimated size of a window: the rows decided as fraud, and the others."""

    others: Stratum
    frauds: Stratum

    @property
    def small(self) -> bool:
        """True if the window is read in full."""
        return self.others.rows + self.frauds.rows <= EXACT_ROWS

    @property
    def all(self) -> Stratum:
        return Stratum(
            self.others.rows + self.frauds.rows, self.others.matching + self.frauds.matching
        )


def query_parameters(
    since: datetime, until: datetime, model_name: str | None = None, model_digest: str | None = None
) -> dict[str, Any]:
    """Return the parameters of the conditions MODEL_FILTER, WITHIN and WHOLE."""
    # An id begins with 48 bits of Unix milliseconds.
    lowest, beyond = (
        str(UUID(int=max(0, int(moment.timestamp() * 1000) + more) << 80))
        for moment, more in ((since, 0), (until, 1))
    )
    return {
        "since": since,
        "until": until,
        "model_name": model_name,
        "model_digest": model_digest,
        "lowest": lowest,
        "beyond": beyond,
    }


def sample_levels(level: int) -> list[int]:
    """Return the lowest set bits that select one row in 2^level; 0 means that no bit is set."""
    return [*(1 << number for number in range(level, BITS)), 0]


async def estimate_window(
    connection: AsyncConnection, parameters: Mapping[str, Any]
) -> WindowEstimate:
    """Estimate the size of a window from one row in 2^PILOT_LEVEL.

    It also sets PLANNER_SETTINGS for the rest of the transaction, so call it first.
    """
    for setting in PLANNER_SETTINGS:
        await connection.execute(setting)
    names = ("since", "until", "model_name", "model_digest")
    result = await connection.execute(
        _PILOT,
        {name: parameters[name] for name in names} | {"lowest_bits": sample_levels(PILOT_LEVEL)},
    )
    strata = {
        row.prediction: Stratum(row.rows * 2.0**PILOT_LEVEL, row.matching * 2.0**PILOT_LEVEL)
        for row in result
    }
    return WindowEstimate(strata.get(0, Stratum()), strata.get(1, Stratum()))


def spread(total: int, weight: float) -> float:
    """Return the standard error of an estimated total of rows that were read with this weight."""
    # The sum of w(w - 1) over total / w rows. If no row was read, the error is that of one row.
    return sqrt((weight - 1) * max(total, weight))


def ratio_spread(part: int, weight: float, rest: int, rest_weight: float) -> float:
    """Return the standard error of part / (part + rest)."""
    whole = part + rest
    if not whole:
        return 0.0
    ratio = part / whole
    return (
        sqrt((spread(part, weight) * (1 - ratio)) ** 2 + (spread(rest, rest_weight) * ratio) ** 2)
        / whole
    )
