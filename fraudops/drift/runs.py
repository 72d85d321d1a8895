"""Writes and reads the tables `drift_runs` and `drift_columns`.

Every function that uses the database raises StoreDownError while PostgreSQL is unavailable or has
no tables.
"""

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit.database import translated
from fraudops.audit.refused import refused_share
from fraudops.audit.tables import drift_columns, drift_runs
from fraudops.drift.psi import SCORE, ColumnDrift, DecisionRate, Verdict


@dataclass(frozen=True)
class PreviousRun:
    """An earlier run of the same model."""

    id: uuid.UUID
    end: datetime
    verdict: Verdict

    @property
    def exceeded(self) -> bool:
        return self.verdict in ("warning", "alarm")


@dataclass(frozen=True, kw_only=True)
class DriftRun:
    """The result for one window [start, end) of one model.

    The window holds `rows` rows, an estimate if `rows_estimated`. `compared` of them were compared
    with `reference_rows`. `columns` has the score and every feature; it is empty if there were not
    enough rows. `sample` is true if the model was trained on the packaged sample.
    `features_unavailable` is the reason why only the score was compared. `before` is the judged
    window before this one. `refused` transactions of the window were not scored; the verdict does
    not depend on them.
    """

    id: uuid.UUID
    at: datetime
    start: datetime
    end: datetime
    model_version: str
    model_digest: str
    sample: bool
    reference_rows: int
    minimum_rows: int
    rows: int
    compared: int
    verdict: Verdict
    columns: tuple[ColumnDrift, ...]
    rate: DecisionRate
    before: PreviousRun | None
    html_path: str | None = None
    features_unavailable: str | None = None
    rows_estimated: bool = False
    refused: int = 0

    @property
    def refused_share(self) -> float | None:
        """The share of refused transactions, or None if none was answered or refused."""
        return refused_share(self.refused, self.rows)

    @property
    def score_psi(self) -> float | None:
        return next((column.psi for column in self.columns if column.name == SCORE), None)

    @property
    def exceeded(self) -> tuple[ColumnDrift, ...]:
        """The columns above their thresholds, the largest PSI first."""
        return tuple(
            sorted(
                (column for column in self.columns if column.exceeded),
                key=lambda column: -column.psi,
            )
        )

    def report(self) -> dict[str, Any]:
        """Return the run as JSON-ready values, for `--json` and for the database row."""
        fields = asdict(self)
        times = {name: fields[name].isoformat() for name in ("at", "start", "end")}
        columns = [
            asdict(column) | {"exceeded": column.exceeded}
            for column in sorted(self.columns, key=lambda column: -column.psi)
        ]
        before = (
            {
                "id": str(self.before.id),
                "end": self.before.end.isoformat(),
                "verdict": self.before.verdict,
            }
            if self.before
            else None
        )
        rate = {**fields["rate"], "position": self.rate.position}
        return (
            fields
            | times
            | {
                "id": str(self.id),
                "score_psi": self.score_psi,
                "refused_share": self.refused_share,
                "columns": columns,
                "rate": rate,
                "before": before,
            }
        )


async def latest(engine: AsyncEngine, digest: str) -> PreviousRun | None:
    """Return the run of this model whose window ended last, with any verdict."""
    return await _first(engine, drift_runs.c.model_digest == digest)


async def window_before(engine: AsyncEngine, digest: str, start: datetime) -> PreviousRun | None:
    """Return the latest judged run of this model whose window ended by `start`.

    A window with too few rows was not judged and is skipped.
    """
    return await _first(
        engine,
        drift_runs.c.model_digest == digest,
        drift_runs.c.window_end <= start,
        drift_runs.c.verdict != "not enough rows",
    )


async def _first(engine: AsyncEngine, *conditions: Any) -> PreviousRun | None:
    columns = (drift_runs.c.id, drift_runs.c.window_end, drift_runs.c.verdict)
    order = (drift_runs.c.window_end.desc(), drift_runs.c.at.desc())
    with translated():
        async with engine.connect() as connection:
            row = (
                await connection.execute(
                    select(*columns).where(*conditions).order_by(*order).limit(1)
                )
            ).first()
    return PreviousRun(row[0], row[1], row[2]) if row else None


async def record(engine: AsyncEngine, run: DriftRun) -> None:
    """Insert the run and its columns in one transaction.

    The score's row of `drift_columns` has the name `fraud_probability`.
    """
    values = {
        "id": run.id,
        "at": run.at,
        "window_start": run.start,
        "window_end": run.end,
        "model_version": run.model_version,
        "model_digest": run.model_digest,
        "rows": run.rows,
        "verdict": run.verdict,
        "score_psi": run.score_psi,
        "decision_rate": run.rate.value if run.rows else None,
        "expected_decision_rate": run.rate.expected,
        "report": run.report(),
        "html_path": run.html_path,
    }
    columns = [
        {
            "run_id": run.id,
            "column_name": column.name,
            "psi": column.psi,
            "threshold": column.threshold,
            "exceeded": column.exceeded,
        }
        for column in run.columns
    ]
    with translated():
        async with engine.begin() as connection:
            await connection.execute(insert(drift_runs).values(**values))
            if columns:
                await connection.execute(insert(drift_columns), columns)
