"""`fraudops promotions`: who promoted what and why, and how each promotion ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from fraudops import endpoints
from fraudops.errors import StoreDownError
from fraudops.promotion.history import PastAct, read_history, with_unwritten
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from fraudops.wiring import read_record
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, output, print_json, run, state_option, target_options

GOOD = ("done", "unchanged")


def as_mapping(act: PastAct) -> dict[str, Any]:
    """Return the object that `--json` prints for one act; times are ISO 8601 in UTC."""
    return asdict(act) | {
        "started_at": act.started_at.isoformat(),
        "finished_at": act.finished_at.isoformat() if act.finished_at else None,
        "seconds": None if act.seconds is None else round(act.seconds, 3),
    }


def show(acts: Sequence[PastAct], target: str) -> None:
    """Print the table, or how to make the first promotion."""
    if not acts:
        output.print(
            f"No promotion is recorded yet. Promote a version: "
            f"`fraudops promote --version latest{target}`",
            markup=False,
        )
        return
    table = Table(box=None, pad_edge=False)
    for title in ("started (UTC)", "act", "version", "strategy", "who", "outcome", "took"):
        table.add_column(title)
    table.add_column("why", overflow="fold")
    for act in acts:
        table.add_row(
            act.started_at.strftime("%Y-%m-%d %H:%M:%S"),
            act.act,
            _versions(act),
            act.strategy,
            escape(act.requested_by),
            _outcome(act),
            "" if act.seconds is None else f"{act.seconds:.1f} s",
            escape(_why(act)),
        )
    print_table(output, table)


def _versions(act: PastAct) -> str:
    wanted = act.to_version or "?"
    return f"{act.from_version} → {wanted}" if act.from_version else wanted


def _outcome(act: PastAct) -> str:
    colour = "green" if act.outcome in GOOD else "yellow"
    return f"[{colour}]{act.outcome}[/]" + ("" if act.written else " (not written yet)")


def _why(act: PastAct) -> str:
    """Return the reasons of the outcome and of the waiver, and the pods that were behind."""
    parts = [act.reason or ""]
    if act.waiver_reason:
        parts.append(f"gates waived: {act.waiver_reason}")
    # Most reasons name the pods already.
    unnamed = [pod for pod in act.behind if pod not in parts[0]]
    if unnamed:
        parts.append(f"behind: {', '.join(unnamed)}")
    return "; ".join(part for part in parts if part)


@on_cluster("promote", "jobs.promotions")
@click.command(name="promotions")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="How many promotions to show.",
)
@json_option
@state_option
def command(limit: int, as_json: bool, state: State) -> None:
    """List promotions, rollbacks and undos, the newest first.

    Each has its versions, who asked for it and why, its outcome, its duration, and the pods that
    had not followed at its end. While PostgreSQL is down, only the rows that the serving record
    still keeps are listed, and the exit code is 75.
    """
    settings = PromoteJobSettings.from_environment()
    record = read_record(settings.cluster, state)
    stored, failure = list[PastAct](), None
    try:
        stored = asyncio.run(
            read_history(endpoints.database_url(state), settings.model_name, limit)
        )
    except StoreDownError as error:
        failure = error
    acts = with_unwritten(stored, record.unwritten, limit)
    if as_json:
        promotions = [as_mapping(act) for act in acts]
        complete = failure is None
        print_json({"model": settings.model_name, "complete": complete, "promotions": promotions})
    elif acts or failure is None:
        show(acts, target_options(state))
    if failure:
        raise StoreDownError(
            f"{failure}. The list has only the rows that the serving record keeps until "
            "PostgreSQL has them"
        ) from failure


if __name__ == "__main__":
    run(command)
