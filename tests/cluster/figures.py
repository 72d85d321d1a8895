"""What the cluster's tests measure on the way, as one result beside those of the benchmarks."""

from datetime import UTC, datetime
from statistics import median

from benchmarks.results import RESULTS, Result, Table, machine, revision, write


class Figures:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def note(self, what: str, value: object) -> None:
        self.rows.append((what, str(value)))

    def seconds(self, what: str, values: list[float]) -> None:
        if values:
            self.note(f"{what}: median (least to most), seconds", f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f}), {len(values)} times")

    def write(self) -> None:
        commit, changed = revision()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        result = Result(
            name="cluster", title="On Kubernetes", at=at, commit=commit, changed=changed, quick=False, machine=machine(), settings={"cluster": "kind"}
        )
        result.tables.append(Table("Seen", ("what", "measured"), self.rows))
        write(result, RESULTS)
