"""`python -m benchmarks.labels`: an import of ten million labels next to ten million predictions.

The generator knows how many rows of its file are repeated, unmatched and contradictory.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from benchmarks import results
from benchmarks.audit_rows import FRAUD_EVERY, AuditTables
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, say
from benchmarks.models import ROOT
from benchmarks.processes import SubjectError, bare_environment
from benchmarks.product import database
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, short, spread
from fraudops.audit.partitions import partition_name

DAY_ROWS, QUICK_DAY_ROWS = 1_000_000, 5_000
DAYS, QUICK_DAYS = 10, 3
MEMORY_MIB = 256.0
# Each prediction has a label, by its id or by its transaction_id. After each n-th row comes the
# same row again, or one of a transaction that was never answered.
REPEATED_EVERY, UNMATCHED_EVERY = 200, 100
# The transaction of a fraud was sent twice. The second answer decides otherwise, and so does its
# label.
_FILE = f"""
COPY (
    SELECT CASE WHEN copy < 2 AND n % 2 = 0 THEN id::text ELSE '' END AS prediction_id,
           CASE WHEN copy = 2 THEN 'missing-' || transaction_id
                WHEN n % 2 = 1 THEN transaction_id ELSE '' END AS transaction_id,
           prediction AS label, "timestamp" AS labelled_at
    FROM (
        SELECT id, transaction_id, prediction, "timestamp",
               row_number() OVER (ORDER BY id) - 1 AS n
        FROM {{day}}
    ) AS numbered
    JOIN generate_series(0, 2) AS copy
      ON copy = 0 OR (copy = 1 AND n % {REPEATED_EVERY} = {REPEATED_EVERY // 2})
      OR (copy = 2 AND n % {UNMATCHED_EVERY} = {UNMATCHED_EVERY // 2})
    ORDER BY n, copy
) TO STDOUT WITH (FORMAT csv, HEADER {{header}})
"""  # noqa: S608 (only constants of this module)


class Imported(msgspec.Struct, frozen=True):
    """A run of the command: its report, its seconds, and its largest resident memory."""

    report: dict[str, str | int | None]
    seconds: float
    peak_mib: float


@click.command()
@results_option
@quick_option
def command(results: Path | None, quick: bool) -> None:
    """Measure the import of 10,000,000 labels: rate, memory, and its report."""
    with (
        tempfile.TemporaryDirectory(prefix="fraudops-bench-", ignore_cleanup_errors=True) as folder,
        database(Path(folder) / "postgresql") as url,
    ):
        result = measure(url, Path(folder), BenchmarkPlan.of(1, 0.0, None, quick))
    conclude(result, results)


def measure(url: str, folder: Path, plan: BenchmarkPlan) -> Result:
    result = results.begin("labels", "Import of labels", plan)
    days, day_rows = (QUICK_DAYS, QUICK_DAY_ROWS) if plan.quick else (DAYS, DAY_ROWS)
    started = time.monotonic()
    audit = AuditTables(url, day_rows)
    audit.grow(days * day_rows)
    # The import is to be the only source of labels.
    audit.connection.execute("TRUNCATE labels")
    file = folder / "labels.csv"
    write_labels(audit, file)
    say(f"{audit.rows:,} predictions and their file made in {time.monotonic() - started:.0f} s")
    expected = expected_counts(audit.rows)
    first, again = (import_file(url, folder, file) for _ in range(2))
    stored = audit.value("SELECT count(*) FROM labels")
    result.settings = {"predictions": audit.rows, "days": days, "file in MB": _megabytes(file)}
    result.tables = [_table(first, again), _counts(expected, first.report)]
    wrong = sum(first.report[name] != count for name, count in expected.items())
    wrong += (stored != expected["inserted"]) + (again.report != first.report)
    result.claims = [
        Claim("counts of the report that are wrong", spread([float(wrong)]), 0.0, "at most"),
        Claim(
            f"the import needs at most {MEMORY_MIB:g} MiB",
            spread([first.peak_mib]),
            MEMORY_MIB,
            "at most",
        ),
    ]
    result.notes = [
        "The file is in the order of time, as a source system writes it. Nothing else used the"
        " database.",
        "The second run reads the file for its digest and prints the report again.",
    ]
    result.details = {"first": first, "again": again, "expected": expected, "stored": stored}
    return result


def write_labels(audit: AuditTables, file: Path) -> None:
    """Write a CSV with the labels of all days, the oldest first."""
    days = [
        row[0]
        for row in audit.connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'predictions'::regclass ORDER BY 1"
        )
        if row[0] < partition_name(audit.until.date())
    ]
    with file.open("wb") as out:
        for number, day in enumerate(days):
            statement = _FILE.format(day=day, header="false" if number else "true")
            with audit.connection.cursor().copy(statement.encode()) as rows:
                for block in rows:
                    out.write(block)


def expected_counts(rows: int) -> Mapping[str, int]:
    """Return the counts of the report for so many predictions, in whole days."""
    repeated, unmatched = rows // REPEATED_EVERY, rows // UNMATCHED_EVERY
    return {
        "rows": rows + repeated + unmatched,
        "inserted": rows + unmatched,
        "repeated": repeated,
        "refused": 0,
        "matched": rows + repeated,
        "unmatched": unmatched,
        "contradictory": rows // FRAUD_EVERY,
    }


def import_file(url: str, folder: Path, file: Path) -> Imported:
    """Run `fraudops labels import`. Raises SubjectError."""
    arguments = [sys.executable, "-m", "jobs.labels", "import", str(file), "--json"]
    arguments += ["--source", "benchmark", "--report", str(folder / "report.csv")]
    environment = bare_environment(DATABASE_URL=url, FRAUDOPS_STATE=str(folder))
    started, peak = time.monotonic(), 0.0
    with (folder / "import.json").open("w+") as out, (folder / "import.log").open("w+") as log:
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=log)
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.1)
        seconds = time.monotonic() - started
        out.seek(0)
        log.seek(0)
        if process.returncode:
            raise SubjectError(f"the import ended with {process.returncode}: {log.read()[-1500:]}")
        return Imported(msgspec.json.decode(out.read()), seconds, peak)


def _peak_mib(pid: int) -> float:
    """Return the largest resident memory of the process until now; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    # Neither a zombie nor a process before its exec has this line, or has it of its own.
    found = status.partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else 0.0


def _megabytes(file: Path) -> int:
    return round(file.stat().st_size / 1e6)


def _table(first: Imported, again: Imported) -> Table:
    rows = int(first.report["rows"] or 0)
    return Table(
        "The command",
        ("run", "seconds", "rows a second", "peak memory in MiB"),
        [
            (name, short(one.seconds), f"{rows / one.seconds:,.0f}", f"{one.peak_mib:.0f}")
            for name, one in (("first", first), ("the same again", again))
        ],
    )


def _counts(expected: Mapping[str, int], report: Mapping[str, str | int | None]) -> Table:
    rows = [(name, f"{count:,}", f"{report[name]:,}") for name, count in expected.items()]
    return Table("Rows of the file", ("count", "as generated", "in the report"), rows)


if __name__ == "__main__":
    command()
