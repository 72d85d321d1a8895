"""`fraudops audit`: proof that nothing is lost or doubled, rows as Parquet, and what was set aside
back to shipping.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fraudops.audit.dead_letters import DeadLetters, ReplayResult
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.endpoints import database_url
from fraudops.errors import RefusedError, SettingsError
from fraudops.settings import RetentionJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import ClusterCommand
from jobs.reports.audit import reconciliation_table, what_is_wrong
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.audit.reconciliation import Answers, ReconciliationReport

IN_THE_PODS = "In the cluster the pods' spools are not looked into: what is still in them counts as lost here. fraudops_spool_rows must be 0 in their metrics."
Window = tuple[datetime, datetime]


class Subcommand(ClusterCommand):
    """A command of the group with `--on-cluster`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        self._given = [str(self.name), *self._given]
        return rest


@click.group(
    help="Prove that the audit is whole, export it, bring back what was set aside, forget features."
)
def command() -> None:
    pass


def _moment(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter("give an ISO time such as 2026-11-02T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


since_option = click.option(
    "--since",
    callback=_moment,
    metavar="TIME",
    help="The window begins here: an ISO time (UTC). [default: 24 hours ago]",
)
until_option = click.option(
    "--until",
    callback=_moment,
    metavar="TIME",
    help="The window ends here: an ISO time (UTC). [default: now]",
)


def _window(since: datetime | None, until: datetime | None) -> Window:
    """In UTC. Raises SettingsError when it ends before it begins."""
    end = (until or datetime.now(UTC)).astimezone(UTC)
    start = (since or end - timedelta(hours=24)).astimezone(UTC)
    if start >= end:
        raise SettingsError(
            f"the window from {start.isoformat()} to {end.isoformat()} is empty: --since must be before --until"
        )
    return start, end


@click.command()
@click.option(
    "--answers",
    type=click.File("rb"),
    metavar="FILE",
    help="What a client was answered: a prediction_id a line, or answers as JSON lines; - reads standard input.",
)
@since_option
@until_option
@json_option
@state_option
def verify(
    answers: Any, since: datetime | None, until: datetime | None, as_json: bool, state: State
) -> str:
    """Do spool, table and a client's answer log agree?

    With --answers the window is that of the answers, and each of them must be in the table once,
    or on its way. Exits 65 when an answer is lost or stands twice. Changes nothing.
    """
    from fraudops.audit.answers import read_answers, window_of

    settings = RetentionJobSettings.from_environment()
    log = read_answers(answers) if answers else None
    if log and (since or until):
        raise SettingsError(
            "--since and --until do not go with --answers: the answers say when they were given"
        )
    found = asyncio.run(
        _verify(
            state, log, window_of(log) if log else _window(since, until), settings.retention.days
        )
    )
    shipper = read_shipper_status(state)
    if as_json:
        print_json(
            asdict(found)
            | {"agrees": found.agrees, "records_damaged": shipper.missing if shipper else 0}
        )
    else:
        print_table(output, reconciliation_table(found))
    if not state.spool.is_dir():
        notices.print(
            IN_THE_PODS
            if settings.cluster.release
            else f"There is no spool in {state.root}: only the table was looked at.",
            markup=False,
        )
    if not found.agrees:
        raise RefusedError(what_is_wrong(found))
    who = "spool, table and answer log agree" if log else "spool and table agree"
    return f"{who}: {found.rows:,} rows in the window, {found.in_spool:,} in the spool, {found.set_aside:,} set aside"


async def _verify(
    state: State, log: "Answers | None", window: Window, kept_days: int
) -> "ReconciliationReport":
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.reconciliation import compare

    url = database_url(state)
    with _bar("looking") as tell, translated(url):
        async with open_connection(url, "fraudops-audit") as connection:
            return await compare(connection, state, log, window, kept_days, tell)


@click.command()
@since_option
@until_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A new Parquet file.",
)
@json_option
@state_option
def export(
    since: datetime | None, until: datetime | None, out: Path, as_json: bool, state: State
) -> str:
    """The audited predictions of a window as one Parquet file.

    Streamed: memory stays flat however many rows there are. The file has its name only once it
    is whole.
    """
    window = _window(since, until)
    if not out.parent.is_dir():
        raise SettingsError(f"{out.parent} is no folder: make it, or name another file")
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
            f"{rows:,} predictions from {window[0]:%Y-%m-%d %H:%M:%S} to {window[1]:%Y-%m-%d %H:%M:%S} UTC in {out}",
            markup=False,
        )
    return f"{rows:,} predictions exported"


async def _export(url: str, window: Window, out: Path) -> int:
    from fraudops.audit import parquet
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated

    length = window[1] - window[0]
    with _bar("exporting") as tell, translated(url):
        async with open_connection(url, "fraudops-audit") as connection:
            return await parquet.export(
                connection, *window, out, lambda moment: tell((moment - window[0]) / length)
            )


@click.command()
@click.argument(
    "segments",
    nargs=-1,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="[SEGMENT]...",
)
@click.option("--dry-run", is_flag=True, help="Only say what is set aside and why.")
@json_option
@state_option
def replay(segments: tuple[Path, ...], dry_run: bool, as_json: bool, state: State) -> str:
    """Bring back to shipping what was set aside, or SEGMENT files from elsewhere.

    After what made PostgreSQL refuse them is repaired. A second time changes nothing: a row that
    is there stays as it is. In a pod: `python -m services.shipper.replay`.
    """
    if any(segment.absolute().parent == state.spool for segment in segments):
        raise SettingsError(
            f"{state.spool} is the spool itself: the shipper ships what is in there"
        )
    aside = DeadLetters(state.spool)
    if dry_run:
        done = ReplayResult(
            kinds=dict(Counter(entry.kind for entry in aside.entries()).most_common())
        )
    else:
        done = aside.replay_segments(segments) if segments else aside.replay()
    if as_json:
        print_json(asdict(done) | {"dry_run": dry_run})
    else:
        for kind, count in done.kinds.items():
            output.print(f"{count:,}  {kind}", markup=False)
    told = f"{sum(done.kinds.values()):,} set aside" if dry_run else replayed(done)
    if not as_json:
        output.print(told, markup=False)
    return told


def replayed(done: ReplayResult) -> str:
    kept = f"; {done.kept:,} hold no record and stay set aside" if done.kept else ""
    damaged = (
        f"; {done.damaged:,} damaged stretches in {done.segments} segments" if done.damaged else ""
    )
    return (
        f"{done.records:,} records are back in the spool{kept}{damaged}"
        if done.records or kept or damaged
        else "nothing to replay"
    )


@click.command()
@click.option(
    "--prediction",
    "identifiers",
    multiple=True,
    required=True,
    metavar="ID",
    help="A prediction_id; may be given several times.",
)
@json_option
@state_option
def forget(identifiers: tuple[str, ...], as_json: bool, state: State) -> str:
    """Take the features of predictions out of the audit; their rows stay.

    All of those named, or none. Exits 75 while one is still in the spool. Exports and backups
    keep what they have, and PostgreSQL the old versions of the rows until its next vacuum.
    """
    count = asyncio.run(_forget(database_url(state), state, identifiers))
    told = f"the features of {count:,} predictions are forgotten; their rows stay"
    if as_json:
        print_json({"forgotten": count})
    else:
        output.print(told)
    return told


async def _forget(url: str, state: State, identifiers: tuple[str, ...]) -> int:
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated
    from fraudops.audit.forgetting import forget as take_out

    with translated(url):
        async with open_connection(url, "fraudops-audit") as connection:
            return await take_out(connection, state, identifiers)


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    """A progress bar on standard error; yields what to tell it: the share that is done."""
    columns = (TextColumn(name), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notices, transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=min(1.0, share))


for _command, _template in ((verify, "promote"), (export, "retention"), (forget, "promote")):
    command.add_command(Subcommand(_command, _template, "jobs.audit"))
command.add_command(replay)


if __name__ == "__main__":
    run(command)
