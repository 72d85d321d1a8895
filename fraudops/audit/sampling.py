"""Which rows of a window are read: all of a small one, of a large one those whose ids drew a rare
lot, so that the time stays that of the rows read.

The last 16 bits of an id are random. Their lowest set bit is the row's rarity: half of all rows
have 1, a quarter 2, and one row in 2^n has 2^n or more (or 0, no bit at all). The index
`predictions_sample` holds every row decided as fraud, and of the others each eighth, by
decision, rarity and time: it gives one row in 2^n of any window, evenly and always the same
ones, and reads no other. A day without its part of the index (fraudops.audit.indexing) answers
the same, slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log2
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# A window of about so many rows is read whole: a few seconds' work.
EXACT_ROWS = 200_000
BITS = 16
# Of the rows that were not decided as fraud the index holds one in 2^this.
INDEXED_LEVEL = 3
PILOT_LEVEL = 10
SAMPLE_KEY = "(get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15))"
SAMPLE_LEVEL = f"({SAMPLE_KEY} & -{SAMPLE_KEY})"
INDEXED = f"(prediction = 1 OR {SAMPLE_KEY} & 7 = 0)"
WANTED = "(CAST(:model_name AS text) IS NULL OR model_name = :model_name) AND (CAST(:model_digest AS text) IS NULL OR model_digest = :model_digest)"
WITHIN = '"timestamp" >= :since AND "timestamp" < :until'
# The primary key leads there as well, and to nothing else; a window of a part of a day needs that.
WHOLE = f"{WITHIN} AND id >= CAST(:lowest AS uuid) AND id < CAST(:beyond AS uuid)"
# A table without statistics must not be read whole, and what is read is too little for compiling to
# pay.
PINNED = (text("SET LOCAL enable_seqscan = off"), text("SET LOCAL jit = off"))
_PILOT = text(f"""
SELECT prediction, count(*) AS found, count(*) FILTER (WHERE {WANTED}) AS matching FROM predictions
WHERE prediction IN (0, 1) AND {SAMPLE_LEVEL} = ANY(CAST(:rare AS integer[])) AND {INDEXED} AND {WITHIN} GROUP BY prediction
""")  # noqa: S608 (constants of ours only)


@dataclass(frozen=True)
class Stratum:
    """About how many rows of one decision a window holds, and how many of these are of the model
    that is asked for.
    """

    rows: float = 0.0
    matching: float = 0.0

    def level(self, most: int, least: int = 0) -> int:
        """The n for which one row in 2^n makes at most about `most` of the wanted ones, and looks
        at no more than EXACT_ROWS, or `most`, to find them.
        """
        excess = max(self.matching / most, self.rows / max(most, EXACT_ROWS))
        return min(BITS, max(least, ceil(log2(excess)) if excess > 1 else 0))


@dataclass(frozen=True)
class WindowEstimate:
    """About what [since, until) holds, by the rarest thousandth of its rows."""

    others: Stratum
    frauds: Stratum

    @property
    def small(self) -> bool:
        """Whether it is read whole."""
        return self.others.rows + self.frauds.rows <= EXACT_ROWS

    @property
    def all(self) -> Stratum:
        return Stratum(
            self.others.rows + self.frauds.rows, self.others.matching + self.frauds.matching
        )


def query_parameters(
    since: datetime, until: datetime, model_name: str | None = None, model_digest: str | None = None
) -> dict[str, Any]:
    """What the conditions above are filled with."""
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
    """The rarities of one row in 2^level."""
    return [*(1 << number for number in range(level, BITS)), 0]


async def look(connection: AsyncConnection, asked: Mapping[str, Any]) -> WindowEstimate:
    """Begins a transaction's reading; reads one row in 2^PILOT_LEVEL of the index."""
    for setting in PINNED:
        await connection.execute(setting)
    names = ("since", "until", "model_name", "model_digest")
    found = await connection.execute(
        _PILOT, {name: asked[name] for name in names} | {"rare": sample_levels(PILOT_LEVEL)}
    )
    strata = {
        row.prediction: Stratum(row.found * 2.0**PILOT_LEVEL, row.matching * 2.0**PILOT_LEVEL)
        for row in found
    }
    return WindowEstimate(strata.get(0, Stratum()), strata.get(1, Stratum()))
