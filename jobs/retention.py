"""`fraudops retention`: days of predictions beyond their time leave the audit, and the next days'
partitions are made. Safe to run again.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from fraudops.endpoints import database_url
from fraudops.errors import SettingsError, StoreDownError
from fraudops.settings import RetentionJobSettings, RetentionSettings
from fraudops.state import State
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, state_option

# Half of the Job's time; what is left then is the next run's.
INDEX_SECONDS = 1800


async def retain(url: str, settings: RetentionSettings, dry_run: bool) -> dict[str, Any]:
    """What was done, or would be.

    Raises StoreDownError; a day that is in use, and those behind it, are left for the next run.
    """
    from fraudops.audit import retention
    from fraudops.audit.connection import connect
    from fraudops.audit.database import translated
    from fraudops.audit.indexing import index_days
    from fraudops.audit.partitions import partitions

    today = datetime.now(UTC).date()
    with translated(url):
        connection = await connect(url, "fraudops-retention")
        try:
            due = retention.expired(await partitions(connection), today, settings.days)
            done: dict[str, Any] = {
                "kept_days": settings.days,
                "oldest_kept": today - timedelta(days=settings.days),
                "dry_run": dry_run,
            }
            if dry_run:
                return done | {
                    "dropped": [{"day": each.day, "bytes": each.bytes} for each in due],
                    "in_use": [],
                    "made": [],
                    "indexed": [],
                    "not_indexed": [],
                }
            await retention.begin(connection)
            done |= {
                "made": await retention.make_ahead(connection, today),
                "dropped": [],
                "in_use": [],
            }
            for number, partition in enumerate(due):
                try:
                    dropped = await retention.remove_day(connection, partition, settings.export)
                except retention.InUseError as error:
                    notices.print(
                        f"{partition.day} stays until the next run: {error}", markup=False
                    )
                    done["in_use"] = [each.day for each in due[number:]]
                    break
                where = f", {dropped.rows:,} rows in {dropped.file}" if dropped.file else ""
                notices.print(
                    f"{partition.day} dropped ({partition.bytes / 1e6:.1f} MB{where})", markup=False
                )
                done["dropped"].append(
                    {
                        "day": dropped.day,
                        "bytes": dropped.bytes,
                        "rows": dropped.rows,
                        "file": dropped.file,
                    }
                )
            indexed, left = await index_days(connection, INDEX_SECONDS)
            return done | {"indexed": indexed, "not_indexed": left}
        finally:
            await connection.close()


def said(done: dict[str, Any]) -> str:
    days, megabytes = len(done["dropped"]), sum(each["bytes"] for each in done["dropped"]) / 1e6
    what = (
        f"{days} days of predictions ({megabytes:.1f} MB) {'would be dropped' if done['dry_run'] else 'dropped'}"
        if days
        else "no day to drop"
    )
    indexed = f"; {len(done['indexed'])} days indexed" if done["indexed"] else ""
    left = f"; {len(done['not_indexed'])} days left to index" if done["not_indexed"] else ""
    return f"{what}; kept from {done['oldest_kept']} on; {len(done['made'])} partitions made ahead{indexed}{left}"


@on_cluster("retention")
@click.command(name="retention")
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    help="Keep this many days. [env: FRAUDOPS_RETENTION__DAYS; default: 400]",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write each day to Parquet here before it is dropped. [env: FRAUDOPS_RETENTION__EXPORT]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@json_option
@state_option
def command(
    days: int | None, export: Path | None, dry_run: bool, as_json: bool, state: State
) -> str:
    """Drop whole days of predictions beyond their time; make the next days' partitions.

    Others read and write on meanwhile. Exits 75 when a day is in use for too long: the next run
    takes it.
    """
    given = {
        name: value for name, value in (("days", days), ("export", export)) if value is not None
    }
    settings = RetentionJobSettings.from_environment().retention.model_copy(update=given)
    if settings.export and not settings.export.is_dir():
        raise SettingsError(
            f"{settings.export} is no folder: nothing is dropped without its export"
        )
    done = asyncio.run(retain(database_url(state), settings, dry_run))
    ended = said(done)
    if as_json:
        print_json(done)
    else:
        output.print(ended)
    if done["in_use"]:
        raise StoreDownError(
            f"{ended}; in use, and left for the next run: {', '.join(map(str, done['in_use']))}"
        )
    return ended


if __name__ == "__main__":
    run(command)
