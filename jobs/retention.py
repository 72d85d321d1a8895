"""`fraudops retention`: drop expired days of predictions and create the next partitions.

Safe to repeat.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops.endpoints import database_url
from fraudops.errors import SettingsError, StoreDownError
from fraudops.settings import RetentionJobSettings, RetentionSettings
from fraudops.state import State
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.audit.locking import HeldLock
    from fraudops.audit.partitions import Partition

PROGRAM = "fraudops-retention"
# Half of the Job's time limit. The next run indexes the days that are left.
INDEX_SECONDS = 1800


async def retain(url: str, settings: RetentionSettings, dry_run: bool) -> dict[str, Any]:
    """Drop the expired days and return the report; with `dry_run` only list them.

    A day that is in use, and every later day, is left for the next run. Raises StoreDownError.
    """
    from fraudops.audit import retention
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.indexing import index_days
    from fraudops.audit.partitions import partitions

    today = datetime.now(UTC).date()
    report: dict[str, Any] = {
        "kept_days": settings.days,
        "oldest_kept": today - timedelta(days=settings.days),
        "dry_run": dry_run,
    }
    with translated(url):
        async with open_connection(url, PROGRAM) as connection:
            due = retention.expired(await partitions(connection), today, settings.days)
            if dry_run:
                return report | {
                    "dropped": [{"day": each.day, "bytes": each.bytes} for each in due],
                    "in_use": [],
                    "made": [],
                    "indexed": [],
                    "not_indexed": [],
                }
            async with retention.only_retention(url, PROGRAM) as held:
                # Read again: until now another run may have dropped some.
                due = retention.expired(await partitions(connection), today, settings.days)
                # Create partitions before any drop: a day in use must not delay tomorrow's rows.
                made = await retention.make_ahead(connection, today)
                dropped, in_use = await _drop(connection, held, due, settings.export)
        indexed = await index_days(url, INDEX_SECONDS, PROGRAM)
    if indexed.limit:
        notices.print(f"days cannot be indexed: {indexed.limit}", markup=False)
    return report | {
        "made": made,
        "dropped": dropped,
        "in_use": in_use,
        "indexed": indexed.done,
        "not_indexed": indexed.left,
    }


async def _drop(
    connection: Any, held: "HeldLock", due: "Sequence[Partition]", export: Path | None
) -> tuple[list[dict[str, Any]], list[date]]:
    """Drop the days in order, up to one that is in use. Return the dropped and the other days."""
    from fraudops.audit import retention

    dropped: list[dict[str, Any]] = []
    for number, partition in enumerate(due):
        await held.check()
        try:
            done = await retention.remove_day(connection, held, partition, export)
        except retention.InUseError as error:
            notices.print(f"{partition.day} stays until the next run: {error}", markup=False)
            return dropped, [each.day for each in due[number:]]
        file = f", {done.rows:,} rows in {done.file}" if done.file else ""
        notices.print(
            f"{partition.day} dropped ({partition.bytes / 1e6:.1f} MB{file})", markup=False
        )
        dropped.append(asdict(done))
    return dropped, []


def summary_of(report: dict[str, Any]) -> str:
    """Return the report as one line."""
    days = len(report["dropped"])
    megabytes = sum(each["bytes"] for each in report["dropped"]) / 1e6
    dropped = "would be dropped" if report["dry_run"] else "dropped"
    parts = [
        f"{days} days of predictions ({megabytes:.1f} MB) {dropped}" if days else "no day to drop",
        f"kept from {report['oldest_kept']} on",
        f"{len(report['made'])} partitions created in advance",
    ]
    if report["indexed"]:
        parts.append(f"{len(report['indexed'])} days indexed")
    if report["not_indexed"]:
        parts.append(f"{len(report['not_indexed'])} days left to index")
    return "; ".join(parts)


@on_cluster("retention")
@click.command(name="retention")
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    help="Number of days to keep. [env: FRAUDOPS_RETENTION__DAYS; default: 400]",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write each day to a Parquet file in this folder before the day is dropped. "
    "[env: FRAUDOPS_RETENTION__EXPORT]",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be dropped.")
@json_option
@state_option
def command(
    days: int | None, export: Path | None, dry_run: bool, as_json: bool, state: State
) -> str:
    """Drop expired days of predictions and create the next days' partitions.

    Readers and writers of other days are not blocked. Exits with 75 if a day is in use for too
    long; the next run drops it.
    """
    flags = {
        name: value for name, value in (("days", days), ("export", export)) if value is not None
    }
    settings = RetentionJobSettings.from_environment().retention.model_copy(update=flags)
    if settings.export and not settings.export.is_dir():
        raise SettingsError(
            f"{settings.export} is no folder: create it; nothing is dropped without its export"
        )
    report = asyncio.run(retain(database_url(state), settings, dry_run))
    summary = summary_of(report)
    if as_json:
        print_json(report)
    else:
        output.print(summary)
    if report["in_use"]:
        days_in_use = ", ".join(map(str, report["in_use"]))
        raise StoreDownError(f"{summary}; in use and left for the next run: {days_in_use}")
    return summary


if __name__ == "__main__":
    run(command)
