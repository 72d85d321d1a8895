"""Figures that tests measure. Only `make proof`, which sets PROOF=1, writes them to a file."""

import os
from datetime import UTC, datetime
from statistics import median

from benchmarks.results import RESULTS, Result, Table, machine, revision, write

PROOF = os.environ.get("PROOF") == "1"


class Figures:
    """One benchmark result with one table."""

    def __init__(self, name: str, title: str, **settings: object) -> None:
        self.name, self.title, self.settings = name, title, settings
        self.rows: list[tuple[str, str]] = []

    def note(self, what: str, value: object) -> None:
        self.rows.append((what, str(value)))

    def seconds(self, what: str, values: list[float]) -> None:
        if values:
            self.note(
                f"{what}: median (least to most), seconds",
                f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f}),"
                f" {len(values)} times",
            )

    def write(self) -> None:
        if PROOF:
            commit, changed = revision()
            at = datetime.now(UTC).isoformat(timespec="seconds")
            identity = {"name": self.name, "title": self.title, "settings": self.settings}
            result = Result(
                **identity, at=at, commit=commit, changed=changed, quick=False, machine=machine()
            )  # type: ignore[arg-type]
            result.tables.append(Table("Seen", ("what", "measured"), self.rows))
            write(result, RESULTS)
