"""Labels: which of several counts, and how many of a window are unmatched or contradictory.

An unmatched label names no answer. A contradictory one has another label of its transaction that
says the opposite. A label names its transaction by a prediction_id or by a transaction_id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit.database import shown_url, translated
from fraudops.audit.label_names import Name, NamedAnswers, find_answers, stored_labels
from fraudops.audit.sampling import BITS, NORMAL_975, SAMPLE_KEY, ratio_spread

# Of several labels of one transaction, the first in this order counts. A label that is dated after
# its arrival counts from its arrival, so that later corrections win.
PRECEDENCE = "ORDER BY least(labelled_at, received_at) DESC, received_at DESC, id DESC"
# Of more labels than this, a random sample is looked up.
SAMPLED_LABELS = 20_000
# The answer of a younger label may still be in a spool.
SETTLED = timedelta(minutes=10)
_COUNT = """
SELECT count(*) AS received, count(*) FILTER (WHERE received_at < $3) AS settled
FROM labels WHERE received_at >= $1 AND received_at < $2"""
# The last 16 bits of a label's id are random, as those of a prediction's id.
_READ = f"""
SELECT prediction_id, transaction_id, label, received_at < $3 AS settled
FROM labels WHERE received_at >= $1 AND received_at < $2 AND {SAMPLE_KEY} < $4"""  # noqa: S608


@dataclass(frozen=True)
class LabelActivity:
    """Figures of the labels that arrived in a window.

    `received` and `settled` are exact: all labels, and those older than SETTLED. One in `weight` of
    them was looked up. If `weight` is above 1, the other counts are estimates. `checked` labels
    are settled and were looked up; `unmatched` of them name no answer. `contradictory` labels have
    another label of their transaction that says the opposite.
    """

    received: int
    settled: int
    weight: float
    checked: int
    unmatched: int
    contradictory: int

    @property
    def estimated(self) -> bool:
        return self.weight > 1

    @property
    def unmatched_share(self) -> float | None:
        return self.unmatched / self.checked if self.checked else None

    @property
    def unmatched_margin(self) -> float:
        """Half the width of the share's 95 % interval; 0 if it is exact."""
        return NORMAL_975 * ratio_spread(
            self.unmatched, self.weight, self.checked - self.unmatched, self.weight
        )


async def label_activity(
    engine: AsyncEngine, since: datetime, until: datetime, now: datetime
) -> LabelActivity:
    """Return the figures of the labels that arrived in [since, until). Raises StoreDownError.

    All days of the table are searched for their answers. The time depends on the labels of the
    window, and above SAMPLED_LABELS hardly on their number.
    """
    settled = now - SETTLED
    with translated(shown_url(engine)):
        async with engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            counts = await raw.fetchrow(_COUNT, since, until, settled)
            # In full, or the share of the ids whose last 16 bits are below `lots`.
            lots = min(1 << BITS, ceil((1 << BITS) * SAMPLED_LABELS / max(1, counts["received"])))
            rows = await raw.fetch(_READ, since, until, settled, lots)
            names = {_name(row) for row in rows}
            answers = await find_answers(raw, names)
            labels = await stored_labels(raw, answers.with_aliases(names))
    weight = (1 << BITS) / lots
    checked = [row for row in rows if row["settled"]]
    unmatched = sum(not answers.has(_name(row)) for row in checked)
    return LabelActivity(
        received=counts["received"],
        settled=counts["settled"],
        weight=weight,
        checked=round(len(checked) * weight),
        unmatched=round(unmatched * weight),
        contradictory=round(_contradictory(rows, answers, labels) * weight),
    )


def _name(row: Any) -> Name:
    name: Name = row["prediction_id"] or row["transaction_id"]
    return name


def _contradictory(rows: Sequence[Any], answers: NamedAnswers, labels: dict[Name, set[int]]) -> int:
    return sum(
        any(1 - row["label"] in labels.get(alias, ()) for alias in answers.aliases(_name(row)))
        for row in rows
    )
