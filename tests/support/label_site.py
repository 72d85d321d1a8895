"""An audit database, files of labels, and the command that imports them."""

import asyncio
import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from fraudops.audit.records import Record, encode
from services.shipper.sink import Sink
from tests.support.commands import Caller, CommandResult

NOW = datetime.now(UTC).replace(microsecond=0)
YESTERDAY, CARD = NOW - timedelta(days=1), "4111111111111111"
COLUMNS = ("prediction_id", "transaction_id", "label", "labelled_at", "source")
Cells = Mapping[str, Any]
COUNTS = ("rows", "inserted", "repeated", "refused", "matched", "unmatched", "contradictory")


class LabelSite:
    """An audit database, a folder of files, and the command `fraudops labels`."""

    def __init__(self, url: str, folder: Path, call: Caller) -> None:
        self.url, self.folder, self._call = url, folder, call

    def __call__(self, *arguments: str | Path, **environment: str) -> CommandResult:
        return self._call("import", *arguments, **({"DATABASE_URL": self.url} | environment))

    def report(self, *arguments: str | Path) -> dict[str, Any]:
        result = self(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return dict(json.loads(result.stdout))

    def ship(self, *records: Record) -> None:
        async def ship() -> None:
            sink = Sink(self.url)
            assert (await sink.ship([encode(record) for record in records])).new == len(records)
            await sink.close()

        asyncio.run(ship())

    def csv(self, rows: Sequence[Cells], name: str = "labels.csv") -> Path:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        path = self.folder / name
        path.write_text(text.getvalue())
        return path

    def stored(self) -> list[tuple[Any, ...]]:
        """Return the stored labels, without what differs between imports."""
        return self.select(
            "SELECT id::text, prediction_id::text, transaction_id, label, labelled_at, source"
            " FROM labels ORDER BY id"
        )

    def select(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()

    def clear(self, only: str = "true") -> None:
        """Forget all imports, and the labels of this condition."""
        with psycopg.connect(self.url) as connection:
            connection.execute(f"DELETE FROM labels WHERE {only}".encode())
            connection.execute("DELETE FROM label_imports")


def row(label: Any = 1, moment: Any = YESTERDAY, **names: Any) -> dict[str, Any]:
    text = moment.isoformat() if isinstance(moment, datetime) else moment
    return {"label": label, "labelled_at": text, "source": "chargeback", **names}


def counts(report: Mapping[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in COUNTS}


def lines(path: Path) -> list[str]:
    """Return the lines of a list of rows without the import's name."""
    return [line.partition(",")[2] for line in path.read_text().splitlines()]
