"""One drift scan: the reference from the bundle, the window's rows from PostgreSQL, the verdict,
its row and its HTML.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops import endpoints
from fraudops.audit.database import create_engine
from fraudops.drift import runs, wording
from fraudops.drift.psi import SCORE, ColumnDrift, decision_rate, join_windows, judge, psi
from fraudops.drift.report import Comparison, keep_latest
from fraudops.drift.runs import DriftRun, PreviousRun
from fraudops.drift.window import recent
from fraudops.errors import BundleError, SettingsError, StoreDownError
from fraudops.model.manifest import DRIFT_REFERENCE, Manifest, check_files, read_manifest
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import Registry
from fraudops.settings import DriftSettings
from fraudops.state import State

KEPT_REPORTS = 50
LAST = "last"


@dataclass(frozen=True)
class ScanRange:
    """The window as the user gave it: the last `hours`, or from `since` on;

    `last` is where the last run of this version ended, where there is one.
    """

    hours: float = 24.0
    since: datetime | str | None = None


@dataclass(frozen=True)
class Reference:
    """What the production version carries: its manifest, and features and score (float64) of its
    own validation rows.
    """

    entry: ServingEntry
    manifest: Manifest
    rows: pd.DataFrame


@dataclass(frozen=True)
class DriftWindow:
    """Audited rows of [start, end): `rows` in all, the `current` ones to compare, `positives` of
    `decisions`, and the window before. Where features are unavailable, `current` has the score
    alone.
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


@dataclass(frozen=True)
class Scan:
    """A judged and stored window, with the rows that its HTML report compares."""

    found: DriftRun
    reference: pd.DataFrame
    current: pd.DataFrame

    def write_report(self) -> None:
        """Write the HTML report to `found.html_path`, if the run has one.

        Evidently takes seconds, so callers show the verdict first. Raises StoreDownError.
        """
        if self.found.html_path is None:
            return
        path = Path(self.found.html_path)
        thresholds = {column.name: column.threshold for column in self.found.columns}
        lines = [wording.verdict_line(self.found), *wording.lines(self.found)]
        comparison = Comparison(self.reference, self.current, thresholds)
        try:
            comparison.write_html(path, wording.title(self.found), lines)
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
    asked: ScanRange,
    model_name: str = "credit-fraud",
    keys: Sequence[bytes] = (),
    *,
    report: bool = True,
) -> Scan:
    """Judge one window of what `entry` has scored, up to now, and store the run.

    The stored run names the report's path, which `Scan.write_report` writes; without `report`
    it names none.

    Raises StoreDownError without PostgreSQL, BundleError when the reference is not the bundle's
    own.
    """
    reference = read_reference(state, entry, model_name)
    thresholds = column_thresholds(reference.manifest, limits)
    reports = state.reports if report else None
    engine = create_engine(endpoints.database_url(state))
    try:
        window = await _read(engine, reference, asked, limits, keys)
        found = _compare(reference, window, thresholds, limits.minimum_rows, reports)
        await runs.record(engine, found)
    finally:
        await engine.dispose()
    return Scan(found, reference.rows, window.current)


def serving_entry(record: ServingRecord) -> ServingEntry:
    """Return the entry of the version that serves. Raises SettingsError if none does."""
    if record.current is None:
        raise SettingsError(
            "no version is in production: run `fraudops promote --version N --alias production` (`fraudops models` lists them)"
        )
    return record.current


def read_reference(state: State, entry: ServingEntry, model_name: str) -> Reference:
    """From the service's cache of bundles, else from MLflow. Raises BundleError."""
    cached = state.bundles / entry.digest
    if cached.is_dir():
        return _open(cached, entry)
    with TemporaryDirectory(prefix="fraudops-drift-") as folder:
        registry = Registry(endpoints.mlflow_url(state), model_name)
        registry.download_bundle(registry.version(entry.version), Path(folder))
        return _open(Path(folder), entry)


def _open(folder: Path, entry: ServingEntry) -> Reference:
    manifest = read_manifest(folder, entry.digest)
    check_files(folder, manifest)
    if DRIFT_REFERENCE not in manifest.files:
        raise BundleError(
            f"the bundle carries no {DRIFT_REFERENCE}: train the version again with this release"
        )
    frame = pd.read_parquet(folder / DRIFT_REFERENCE)
    columns = [*manifest.feature_schema.names, SCORE]
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        raise BundleError(
            f"{DRIFT_REFERENCE} {f'lacks the column {missing[0]}' if missing else 'has no rows'}: train the version again with this release"
        )
    return Reference(entry, manifest, frame[columns].astype(np.float64))


def column_thresholds(manifest: Manifest, limits: DriftSettings) -> dict[str, float]:
    """The threshold of the score and of every feature, the score first.

    Raises SettingsError for a threshold of a column that the model does not have.
    """
    names = manifest.feature_schema.names
    for name in limits.feature_thresholds:
        if name not in names:
            raise SettingsError(
                f"FRAUDOPS_DRIFT__FEATURE_THRESHOLDS names {name!r}, which is no feature of the model in production ({', '.join(names)})"
            )
    return {SCORE: limits.score_threshold} | {
        name: limits.feature_thresholds.get(name, limits.feature_threshold) for name in names
    }


async def _read(
    engine: AsyncEngine,
    reference: Reference,
    asked: ScanRange,
    limits: DriftSettings,
    keys: Sequence[bytes],
) -> DriftWindow:
    digest, names = reference.entry.digest, reference.manifest.feature_schema.names
    now = datetime.now(UTC)
    start = _start(asked, now, await runs.latest(engine, digest))
    found = await recent(
        engine, start, now, limits.maximum_rows, names, model_digest=digest, keys=keys
    )
    # Rows whose features were forgotten or cannot be read have nothing to compare but the score,
    # which is judged alone if that leaves too few.
    current = (
        pd.DataFrame(found.features, columns=list(names))
        .assign(**{SCORE: found.probability})
        .dropna()
    )
    unavailable = None
    if found.closed and len(current) < limits.minimum_rows:
        unavailable = max(found.closed, key=lambda reason: found.closed[reason])
        current = pd.DataFrame({SCORE: found.probability})
    before = await runs.window_before(engine, digest, start)
    return DriftWindow(
        start,
        now,
        found.rows,
        current,
        len(found.prediction),
        int(found.prediction.sum()),
        before,
        unavailable,
        found.estimated,
    )


def _start(asked: ScanRange, now: datetime, last: PreviousRun | None) -> datetime:
    if asked.since == LAST and last is not None:
        return last.end
    if isinstance(asked.since, datetime):
        if asked.since >= now:
            raise SettingsError(f"--since {asked.since.isoformat()} lies in the future")
        return asked.since
    return join_windows(now - timedelta(hours=asked.hours), now, last.end if last else None)


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
        html_path=str(reports / name) if reports and enough else None,
    )


def _columns(
    reference: pd.DataFrame, current: pd.DataFrame, thresholds: dict[str, float]
) -> tuple[ColumnDrift, ...]:
    """The drift of every column that both frames have, by the PSI that the report shows too."""
    return tuple(
        ColumnDrift(name, psi(reference[name].to_numpy(), current[name].to_numpy()), threshold)
        for name, threshold in thresholds.items()
        if name in current
    )
