"""A state folder in which a model of the packaged sample serves, and files to score."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from fraudops.batch.model import BatchModels
from fraudops.datasets import Dataset, load
from fraudops.promotion.serving_record import ServingEntry, ServingRecord, encode
from fraudops.settings import ClusterJobSettings
from fraudops.state import State
from tests.support.trained import train

VERSION = "3"


@dataclass(frozen=True)
class Scene:
    """The state folder, the served model's digest, and the transactions of the sample."""

    state: State
    digest: str
    data: Dataset

    @property
    def models(self) -> BatchModels:
        return BatchModels(ClusterJobSettings(), self.state)

    def serve(self, version: str) -> None:
        entry = ServingEntry(
            epoch=1,
            version=version,
            digest=self.digest,
            schema_fingerprint="s",
            by="test",
            act="promote",
            at="2026-01-01T00:00:00Z",
        )
        self.state.serving_record.write_bytes(encode(ServingRecord(current=entry)))

    def lines(self, rows: int) -> list[str]:
        """Return CSV lines: a header, then `rows` transactions, each with a unique id."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.data.schema.names, "transaction_id", "note"])
        writer.writerows(
            [*values, f"t,{index}", "x"] for index, values in enumerate(self.data.x[:rows].tolist())
        )
        return text.getvalue().splitlines(keepends=True)

    def table(self, rows: int) -> pa.Table:
        columns = {
            name: self.data.x[:rows, index] for index, name in enumerate(self.data.schema.names)
        }
        return pa.table(
            columns
            | {"transaction_id": [f"t,{index}" for index in range(rows)], "note": ["x"] * rows}
        )

    def csv(self, path: Path, rows: int) -> Path:
        path.write_text("".join(self.lines(rows)))
        return path

    def parquet(self, path: Path, rows: int, row_group_size: int = 170) -> Path:
        pyarrow.parquet.write_table(self.table(rows), path, row_group_size=row_group_size)
        return path


def make_scene(folder: Path) -> Scene:
    data, state = load(), State.at(folder)
    trained = train(data, state.bundles / "new")
    trained.folder.rename(state.bundles / trained.digest)
    scene = Scene(state, trained.digest, data)
    scene.serve(VERSION)
    return scene
