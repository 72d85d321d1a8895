"""`fraudops retention`: drop expired predictions and labels, and create the next partitions.

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
    """Drop the expired days, labels and counts; return the report. `dry_run` only counts them.

    A day that is in use, and every later day, is left for the next run. Raises StoreDownError.
    """
    from fraudops.audit import retention
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.indexing import index_days, index_labels
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
                    **await _count_rows(connection, settings, today),
                }
            async with retention.only_retention(url, PROGRAM) as held:
                # Read again: until now another run may have dropped some.
                due = retention.expired(await partitions(connection), today, settings.days)
                # Create partitions before any drop: a day in use must not delay tomorrow's rows.
                made = await retention.make_ahead(connection, today)
                dropped, in_use = await _drop(connection, held, due, settings.export)
                report |= await _delete_rows(connection, held, settings, today)
        indexed = await index_days(url, INDEX_SECONDS, PROGRAM)
        if not await index_labels(url, INDEX_SECONDS, PROGRAM):
            notices.print("the labels are not indexed by time: the next run does it", markup=False)
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


def _label_days(settings: RetentionSettings) -> int:
    return settings.days if settings.label_days is None else settings.label_days


async def _count_rows(connection: Any, settings: RetentionSettings, today: date) -> dict[str, Any]:
    """Return the report about labels and counts of refused transactions, without a change."""
    from fraudops.audit import label_retention

    counts = {}
    for table, days in (("labels", _label_days(settings)), ("refusals", settings.days)):
        expiry = label_retention.Expiry.of(today, days, settings.days)
        rows = await label_retention.count_expired(connection, table, expiry)
        counts[table] = {"oldest_kept": expiry.arrived.date(), "rows": rows, "file": None}
    return counts


async def _delete_rows(
    connection: Any, held: "HeldLock", settings: RetentionSettings, today: date
) -> dict[str, Any]:
    """Delete expired labels and counts of refused transactions; return the report about them.

    Labels are exported first, if days of predictions are.
    """
    from fraudops.audit import label_retention

    expiry = label_retention.Expiry.of(today, _label_days(settings), settings.days)
    if settings.export:
        deleted = await label_retention.export_and_delete(connection, held, expiry, settings.export)
    else:
        rows = await label_retention.delete_expired(connection, held, "labels", expiry)
        deleted = label_retention.DeletedLabels(rows)
    counted = label_retention.Expiry.of(today, settings.days, settings.days)
    refusals = await label_retention.delete_expired(connection, held, "refusals", counted)
    return {
        "labels": {"oldest_kept": expiry.arrived.date(), **deleted._asdict()},
        "refusals": {"oldest_kept": counted.arrived.date(), "rows": refusals, "file": None},
    }


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
    if report["labels"]["rows"]:
        gone = "would be deleted" if report["dry_run"] else "deleted"
        file = f", exported to {report['labels']['file']}" if report["labels"]["file"] else ""
        parts.append(f"{report['labels']['rows']:,} labels {gone}{file}")
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
    "--label-days",
    type=click.IntRange(1, 36_500),
    help="Number of days to keep labels, from their arrival. [env: FRAUDOPS_RETENTION__LABEL_DAYS; "
    "default: as --days]",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write each day, and the expired labels, to Parquet files in this folder first. "
    "[env: FRAUDOPS_RETENTION__EXPORT]",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be dropped.")
@json_option
@state_option
def command(
    days: int | None,
    label_days: int | None,
    export: Path | None,
    dry_run: bool,
    as_json: bool,
    state: State,
) -> str:
    """Drop expired predictions and labels, and create the next days' partitions.

    Predictions go by whole days. A label goes when it arrived too long ago, or when its
    prediction_id is too old for both numbers of days. Readers and writers are not blocked. Exits
    with 75 if a day is in use for too long; the next run drops it.
    """
    given = {"days": days, "label_days": label_days, "export": export}
    flags = {name: value for name, value in given.items() if value is not None}
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
