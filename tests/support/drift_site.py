"""A state folder with a version in production whose predictions `fraudops drift` scans."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fraudops.audit.connection import connect
from fraudops.audit.partitions import ensure_partition
from fraudops.datasets import Dataset, generate, load, split
from fraudops.ids import uuid7
from fraudops.model.manifest import DRIFT_REFERENCE, seal
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.schema import Feature, FeatureSchema
from fraudops.state import State
from jobs.drift import command
from tests.support.bundles import make_manifest

BANK = FeatureSchema(
    "bank",
    "fraudulent",
    "at",
    "sum",
    tuple(
        Feature(name, -1000.0, 1e6) for name in ("sum", "age", "speed", "distance", "hour_of_day")
    ),
)


@cache
def sample() -> tuple[Dataset, Dataset]:
    """Return the packaged sample's validation rows and 2,000 of its test rows, evenly spread."""
    parts = split(load())
    return parts.validation, spread(parts.test, 2000)


@cache
def bank() -> tuple[Dataset, Dataset]:
    """Return a reference and 2,000 rows like it, of a schema with five columns.

    A scan of these takes a fifth of the time of the packaged sample.
    """
    rows = generate(4000, 7, schema=BANK, fraud_rate=0.02).dataset
    return rows.take(np.arange(0, 4000, 2)), rows.take(np.arange(1, 4000, 2))


def spread(rows: Dataset, count: int) -> Dataset:
    return rows.take(np.linspace(0, len(rows) - 1, count).astype(np.intp))


def score(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of a fixed model in which every feature has a weight.

    `x` has the shape (rows, features), the result (rows,).
    """
    weights = np.where(np.arange(x.shape[1]) % 2 == 0, 0.4, -0.4)
    result: NDArray[np.float64] = 1 / (1 + np.exp(4 - np.tanh(x) @ weights))
    return result


@dataclass(frozen=True)
class DriftSite:
    """A state folder with a version in production, and its audit database."""

    state: State
    database: str
    digest: str

    def drift(self, *arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(
            command,
            ["--state", str(self.state.root), *arguments],
            env={"DATABASE_URL": self.database} | environment,
        )

    def report(self, *arguments: str, **environment: str) -> dict[str, Any]:
        result = self.drift("--json", *arguments, **environment)
        assert result.exit_code == 0, result.exception
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def insert_now(self, rows: Dataset, digest: str | None = None) -> str:
        """Insert the rows as predictions made now; return that moment for `--since`."""
        moment = datetime.now(UTC)
        asyncio.run(insert_predictions(self.database, rows, moment, digest or self.digest))
        return moment.isoformat()


async def insert_predictions(url: str, rows: Dataset, moment: datetime, digest: str) -> None:
    names, scores = rows.schema.names, score(rows.x)
    connection = await connect(url)
    features = [json.dumps(dict(zip(names, values, strict=True))) for values in rows.x.tolist()]
    records = [
        (
            uuid7(),
            moment,
            values,
            float(p),
            int(p > 0.02),
            0.02,
            "credit-fraud",
            "3",
            digest,
            1.0,
            "local",
        )
        for values, p in zip(features, scores, strict=True)
    ]
    columns = [
        "id",
        "timestamp",
        "features",
        "fraud_probability",
        "prediction",
        "threshold",
        "model_name",
        "model_version",
        "model_digest",
        "latency_ms",
        "pod",
    ]
    try:
        await ensure_partition(connection, moment.date())
        await connection.copy_records_to_table("predictions", records=records, columns=columns)
    finally:
        await connection.close()


def write_bundle(folder: Path, reference: Dataset) -> str:
    """Write a sealed bundle with a drift reference only, which is all that drift reads."""
    folder.mkdir(parents=True)
    frame = reference.frame[list(reference.schema.names)].assign(
        fraud_probability=score(reference.x)
    )
    frame.to_parquet(folder / DRIFT_REFERENCE, index=False)
    return seal(
        folder,
        msgspec.structs.replace(make_manifest(reference.schema), expected_decision_rate=0.01),
    )


def site_with(folder: Path, database: str, reference: Dataset) -> DriftSite:
    state = State.at(folder / "state")
    digest = write_bundle(state.bundles / "new", reference)
    (state.bundles / "new").rename(state.bundles / digest)
    entry = ServingEntry(
        epoch=1,
        version="3",
        digest=digest,
        schema_fingerprint=reference.schema.fingerprint,
        by="test",
        act="promote",
        at="2026-01-01T00:00:00Z",
    )
    FileRecordStore(state.serving_record).compare_and_set(ServingRecord(current=entry), b"")
    return DriftSite(state, database, digest)
