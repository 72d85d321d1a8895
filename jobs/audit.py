"""`fraudops audit`: verify, export, replay dead letters, forget features and labels."""

import asyncio
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops.audit.dead_letters import DeadLetters, ReplayResult
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.endpoints import database_url
from fraudops.errors import RefusedError, SettingsError
from fraudops.settings import RetentionJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import ClusterSubcommand
from jobs.options.forgetting import entity_option, prediction_option, transaction_option
from jobs.options.times import TimeWindow, since_option, to_window, until_option
from jobs.reports.audit import problems_of, reconciliation_table
from jobs.reports.progress import share_bar
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.audit.forgetting import ForgetRequest, Forgotten
    from fraudops.audit.reconciliation import Answers, ReconciliationReport

PROGRAM = "fraudops-audit"
SPOOLS_NOT_READ = (
    "In the cluster the pods' spools are not read: a prediction that is still in one counts as "
    "lost here. Check that fraudops_spool_rows is 0 in the metrics of every pod."
)
FORGET_AGAIN = (
    "No spool was read: what still waits in one, or is a dead letter, is not forgotten and may "
    "come back. In the cluster, repeat the command when fraudops_spool_rows, "
    "fraudops_spool_aside_bytes, fraudops_spool_newer_bytes and fraudops_spool_abandoned_bytes "
    "are 0 in the metrics of every pod."
)


@click.group(
    help="Verify that the audit is complete, export it, replay dead letters, forget features and "
    "labels."
)
def command() -> None:
    pass


@click.command()
@click.option(
    "--answers",
    type=click.File("rb"),
    metavar="FILE",
    help="The answers that a client received: one prediction_id per line, or answers as JSON "
    "lines. - reads standard input.",
)
@since_option
@until_option
@json_option
@state_option
def verify(
    answers: Any, since: datetime | None, until: datetime | None, as_json: bool, state: State
) -> str:
    """Compare the spool, the table and a client's answer log.

    With --answers the window is that of the answers. Each answer must be in the table exactly
    once, or still in the spool. Exits with 65 if an answer is lost or stored twice. Changes
    nothing.
    """
    from fraudops.audit.answers import read_answers, window_of

    settings = RetentionJobSettings.from_environment()
    log = read_answers(answers) if answers else None
    if log and (since or until):
        raise SettingsError(
            "--since and --until cannot be used with --answers: the answers define the window"
        )
    window = window_of(log) if log else to_window(since, until)
    found = asyncio.run(_verify(state, log, window, settings.retention.days))
    _show_verification(found, state, as_json)
    if not state.spool.is_dir():
        notices.print(
            SPOOLS_NOT_READ
            if settings.cluster.release
            else f"{state.root} has no spool: only the table was read.",
            markup=False,
        )
    if not found.agrees:
        raise RefusedError(problems_of(found))
    compared = "spool, table and answer log agree" if log else "spool and table agree"
    return (
        f"{compared}: {found.rows:,} rows in the window, {found.in_spool:,} in the spool, "
        f"{found.set_aside:,} dead letters"
    )


def _show_verification(found: "ReconciliationReport", state: State, as_json: bool) -> None:
    if not as_json:
        print_table(output, reconciliation_table(found))
        return
    shipper = read_shipper_status(state)
    damaged = shipper.missing if shipper else 0
    print_json(asdict(found) | {"agrees": found.agrees, "records_damaged": damaged})


async def _verify(
    state: State, log: "Answers | None", window: TimeWindow, kept_days: int
) -> "ReconciliationReport":
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.reconciliation import compare

    url = database_url(state)
    with share_bar("comparing") as progress, translated(url):
        async with open_connection(url, PROGRAM) as connection:
            return await compare(connection, state, log, window, kept_days, progress)


@click.command()
@since_option
@until_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A new file. Its name ends in .parquet.",
)
@json_option
@state_option
def export(
    since: datetime | None, until: datetime | None, out: Path, as_json: bool, state: State
) -> str:
    """Write the audited predictions of a window to one Parquet file.

    Rows are streamed, so memory does not grow with their number. The file gets its name only
    when it is complete.
    """
    from fraudops.audit.parquet import check_new_file

    window = to_window(since, until)
    if not out.parent.is_dir():
        raise SettingsError(f"{out.parent} is no folder: create it, or name another file")
    check_new_file(out)
    rows = asyncio.run(_export(database_url(state), window, out))
    if as_json:
        print_json(
            {
                "file": out,
                "rows": rows,
                "since": window[0].isoformat(),
                "until": window[1].isoformat(),
                "bytes": out.stat().st_size,
            }
        )
    else:
        output.print(
            f"{rows:,} predictions from {window[0]:%Y-%m-%d %H:%M:%S} to "
            f"{window[1]:%Y-%m-%d %H:%M:%S} UTC in {out}",
            markup=False,
        )
    return f"{rows:,} predictions exported"


async def _export(url: str, window: TimeWindow, out: Path) -> int:
    from fraudops.audit import parquet
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated

    start, end = window
    with share_bar("exporting") as progress, translated(url):
        async with open_connection(url, PROGRAM) as connection:
            return await parquet.export(
                connection, start, end, out, lambda at: progress((at - start) / (end - start))
            )


@click.command()
@click.argument(
    "segments",
    nargs=-1,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="[SEGMENT]...",
)
@click.option("--dry-run", is_flag=True, help="Only list the dead letters with their reasons.")
@json_option
@state_option
def replay(segments: tuple[Path, ...], dry_run: bool, as_json: bool, state: State) -> str:
    """Return dead letters, or the records of SEGMENT files from another disk, to the spool.

    First remove the reason why PostgreSQL refused them. A second replay changes nothing, because
    an existing row stays as it is. In a pod, run `python -m services.shipper.replay` instead.
    """
    if any(segment.absolute().parent == state.spool for segment in segments):
        raise SettingsError(f"{state.spool} is the spool itself: the shipper ships its segments")
    letters = DeadLetters(state.spool)
    if dry_run:
        kinds = Counter(letter.kind for letter in letters.entries())
        result = ReplayResult(kinds=dict(kinds.most_common()))
    else:
        result = letters.replay_segments(segments) if segments else letters.replay()
    message = f"{sum(result.kinds.values()):,} dead letters" if dry_run else replayed(result)
    if as_json:
        print_json(asdict(result) | {"dry_run": dry_run})
        return message
    for kind, count in result.kinds.items():
        output.print(f"{count:,}  {kind}", markup=False)
    output.print(message, markup=False)
    return message


def replayed(result: ReplayResult) -> str:
    """Return the outcome of a replay as one line."""
    parts = [f"{result.records:,} records are back in the spool"]
    if result.kept:
        parts.append(f"{result.kept:,} hold no record and stay dead letters")
    if result.damaged:
        parts.append(f"{result.damaged:,} damaged stretches in {result.segments} segments")
    return "; ".join(parts) if result.records or len(parts) > 1 else "nothing to replay"


@click.command()
@prediction_option
@transaction_option
@entity_option
@json_option
@state_option
def forget(
    predictions: tuple[str, ...],
    transactions: tuple[str, ...],
    entities: tuple[str, ...],
    as_json: bool,
    state: State,
) -> str:
    """Remove the features of predictions from the audit, and delete their labels.

    The rows of the predictions stay. With --prediction, labels that name the transaction stay too,
    because it may have other predictions. Either everything named is forgotten, or nothing. Exits
    with 75 while a prediction or a label is still in the spool, or while retention removes a day.
    Exports and backups keep the features. PostgreSQL keeps the old versions of the rows until its
    next vacuum.
    """
    from fraudops.audit.forgetting import ForgetRequest

    request = ForgetRequest.of(predictions, transactions, entities)
    done = asyncio.run(_forget(database_url(state), state, request))
    if not state.spool.is_dir():
        notices.print(FORGET_AGAIN, markup=False)
    message = (
        f"the features of {done.predictions:,} predictions are forgotten, and their rows stay; "
        f"{done.labels:,} labels are deleted"
    )
    if as_json:
        print_json({"forgotten": done.predictions, "labels": done.labels})
    else:
        output.print(message)
    return message


async def _forget(url: str, state: State, request: "ForgetRequest") -> "Forgotten":
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.forgetting import forget as forget_features

    with translated(url):
        async with open_connection(url, PROGRAM) as connection:
            return await forget_features(connection, state, request)


# The template names the CronJob whose volumes and rights the command needs. `replay` has no
# template: in the cluster only the pod itself can read its spool.
for _command, _template in ((verify, "promote"), (export, "retention"), (forget, "promote")):
    command.add_command(ClusterSubcommand(_command, _template, "jobs.audit"))
command.add_command(replay)


if __name__ == "__main__":
    run(command)
