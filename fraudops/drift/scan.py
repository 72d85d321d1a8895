"""One drift scan: from the rows of a window to its verdict, database row and report.

The reference rows are part of the model's bundle. The rows of the window are in PostgreSQL.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops import endpoints
from fraudops.audit.database import create_engine
from fraudops.audit.refused import refused_transactions
from fraudops.drift import runs, wording
from fraudops.drift.psi import SCORE, ColumnDrift, decision_rate, join_windows, judge, psi
from fraudops.drift.reference import Reference, column_thresholds, read_reference
from fraudops.drift.report import Comparison, keep_latest
from fraudops.drift.runs import DriftRun, PreviousRun
from fraudops.drift.window import recent
from fraudops.errors import SettingsError, StoreDownError
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.settings import DriftSettings
from fraudops.state import State

KEPT_REPORTS = 50
LAST = "last"


@dataclass(frozen=True)
class ScanRange:
    """The window that the user asks for: the last `hours`, or everything from `since` on.

    The `since` value `last` is the end of the last run of this model. Without such a run, `hours`
    applies.
    """

    hours: float = 24.0
    since: datetime | str | None = None


@dataclass(frozen=True)
class DriftWindow:
    """The audited rows of [start, end).

    `rows` is their number, an estimate if `rows_estimated`. `current` holds the rows to compare; it
    has only the column of the score if `features_unavailable` gives a reason. `positives` of the
    `decisions` read are frauds. `before` is the last judged run before this window. `refused`
    transactions were not scored.
    """

    start: datetime
    end: datetime
    rows: int
    current: pd.DataFrame
    decisions: int
    positives: int
    before: PreviousRun | None
    features_unavailable: str | None
    rows_estimated: bool
    refused: int


@dataclass(frozen=True)
class Scan:
    """A judged and stored window, with the rows that its HTML report compares."""

    run: DriftRun
    reference: pd.DataFrame
    current: pd.DataFrame

    def write_report(self) -> None:
        """Write the HTML report to `run.html_path`, if the run has one.

        Evidently takes seconds, so callers show the verdict first. Raises StoreDownError.
        """
        if self.run.html_path is None:
            return
        path = Path(self.run.html_path)
        thresholds = {column.name: column.threshold for column in self.run.columns}
        lines = [wording.verdict_line(self.run), *wording.lines(self.run)]
        comparison = Comparison(self.reference, self.current, thresholds)
        try:
            comparison.write_html(path, wording.title(self.run), lines)
        except OSError as error:
            raise StoreDownError(
                f"the verdict is stored, but its report {path} cannot be written "
                f"({error.strerror}): check the disk, or leave the report out with --no-report"
            ) from error
        keep_latest(path.parent, KEPT_REPORTS)


async def scan(
    state: State,
    entry: ServingEntry,
    limits: DriftSettings,
    scan_range: ScanRange,
    model_name: str = "credit-fraud",
    keys: Sequence[bytes] = (),
    *,
    public_keys: Path,
    report: bool = True,
) -> Scan:
    """Judge one window of the predictions of `entry`, up to now, and store the run.

    The stored run names the path of the report, which `Scan.write_report` writes. With
    `report=False` there is no path. `public_keys` is their folder.

    Raises SettingsError for a threshold of an unknown column, SignatureRefusedError for a version
    without a valid signed verdict or waiver, BundleError for a bad bundle, and
    StoreDownError while PostgreSQL is unavailable.
    """
    reference = read_reference(state, entry, model_name, public_keys)
    thresholds = column_thresholds(reference.manifest, limits)
    reports = state.reports if report else None
    engine = create_engine(endpoints.database_url(state))
    try:
        window = await _read(engine, reference, model_name, scan_range, limits, keys)
        run = _compare(reference, window, thresholds, limits.minimum_rows, reports)
        await runs.record(engine, run)
    finally:
        await engine.dispose()
    return Scan(run, reference.rows, window.current)


def serving_entry(record: ServingRecord) -> ServingEntry:
    """Return the entry of the version that serves. Raises SettingsError if none does."""
    if record.current is None:
        raise SettingsError(
            "no version is in production: run `fraudops promote --version N --alias production` "
            "(`fraudops models` lists the versions)"
        )
    return record.current


async def _read(
    engine: AsyncEngine,
    reference: Reference,
    model_name: str,
    scan_range: ScanRange,
    limits: DriftSettings,
    keys: Sequence[bytes],
) -> DriftWindow:
    digest, names = reference.entry.digest, reference.manifest.feature_schema.names
    now = datetime.now(UTC)
    start = _start(scan_range, now, await runs.latest(engine, digest))
    predictions = await recent(
        engine, start, now, limits.maximum_rows, names, model_digest=digest, keys=keys
    )
    # The features of a row are NaN when they were cleared or cannot be decrypted.
    current = (
        pd.DataFrame(predictions.features, columns=list(names))
        .assign(**{SCORE: predictions.probability})
        .dropna()
    )
    unavailable = None
    if predictions.unreadable and len(current) < limits.minimum_rows:
        # Every row still has its score, so a scan without the keys can judge the score alone.
        unavailable = predictions.main_reason()
        current = pd.DataFrame({SCORE: predictions.probability})
    before = await runs.window_before(engine, digest, start)
    refused = await refused_transactions(engine, start, now, model_name, reference.entry.version)
    return DriftWindow(
        start=start,
        end=now,
        rows=predictions.rows,
        current=current,
        decisions=len(predictions.prediction),
        positives=int(predictions.prediction.sum()),
        before=before,
        features_unavailable=unavailable,
        rows_estimated=predictions.estimated,
        refused=refused.rows,
    )


def _start(scan_range: ScanRange, now: datetime, last: PreviousRun | None) -> datetime:
    since = scan_range.since
    if since == LAST and last is not None:
        return last.end
    if isinstance(since, datetime):
        if since >= now:
            raise SettingsError(f"--since {since.isoformat()} lies in the future: give a past time")
        return since
    return join_windows(now - timedelta(hours=scan_range.hours), now, last.end if last else None)


def _compare(
    reference: Reference,
    window: DriftWindow,
    thresholds: dict[str, float],
    minimum_rows: int,
    reports: Path | None,
) -> DriftRun:
    enough = len(window.current) >= minimum_rows
    columns = _columns(reference.rows, window.current, thresholds) if enough else ()
    run_id = uuid.uuid4()
    name = f"drift-{window.end:%Y%m%dT%H%M%S}-{run_id.hex[:8]}.html"
    return DriftRun(
        id=run_id,
        at=datetime.now(UTC),
        start=window.start,
        end=window.end,
        model_version=reference.entry.version,
        model_digest=reference.entry.digest,
        sample=reference.manifest.dataset.sample,
        reference_rows=len(reference.rows),
        minimum_rows=minimum_rows,
        rows=window.rows,
        compared=len(window.current),
        verdict=judge(
            len(window.current),
            minimum_rows,
            columns,
            window.before is not None and window.before.exceeded,
        ),
        columns=columns,
        rate=decision_rate(
            window.decisions, window.positives, reference.manifest.expected_decision_rate
        ),
        before=window.before,
        features_unavailable=window.features_unavailable,
        rows_estimated=window.rows_estimated,
        refused=window.refused,
        html_path=str(reports / name) if reports and enough else None,
    )


def _columns(
    reference: pd.DataFrame, current: pd.DataFrame, thresholds: dict[str, float]
) -> tuple[ColumnDrift, ...]:
    """Return the drift of every column that both frames have.

    `Comparison` uses the same PSI, so the verdict and the report show the same numbers.
    """
    return tuple(
        ColumnDrift(name, psi(reference[name].to_numpy(), current[name].to_numpy()), threshold)
        for name, threshold in thresholds.items()
        if name in current
    )
