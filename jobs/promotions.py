"""`fraudops promotions`: who promoted what and why, and how each promotion ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any

import click
from rich.text import Text

from fraudops import endpoints
from fraudops.errors import StoreDownError
from fraudops.promotion.history import PastAct, read_history, with_unwritten
from fraudops.settings import PromoteJobSettings
from fraudops.signing.keys import short
from fraudops.state import State
from fraudops.terminal import one_line
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
    """Print a line for each act and its reasons below, or how to make the first promotion."""
    if not acts:
        output.print(
            f"No promotion is recorded yet. Promote a version: "
            f"`fraudops promote --version latest{target}`",
            markup=False,
        )
        return
    for act in acts:
        # No table: with the reasons, its columns would be too narrow to read in 80 columns.
        output.print(_line(act))
        for reason in _reasons(act):
            output.print(f"    {one_line(reason)}", markup=False)


def _line(act: PastAct) -> Text:
    versions = act.to_version or "(none)"
    if act.from_version:
        versions = f"{act.from_version} → {versions}"
    took = "" if act.seconds is None else f", took {act.seconds:.1f} s"
    return Text.assemble(
        f"{act.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}  ",
        (f"{act.outcome:<11}", "green" if act.outcome in GOOD else "yellow"),
        f"  {act.act or 'promote or rollback'} {versions} by {act.strategy}, "
        f"requested by {one_line(_requester(act))}{took}",
    )


def _requester(act: PastAct) -> str:
    """Return the name, with the controller that acts as `automation` and what proves the name."""
    notes = [] if act.actor in (None, act.requested_by) else [act.actor]
    notes += [] if act.authenticated else ["not authenticated"]
    return f"{act.requested_by} ({', '.join(notes)})" if notes else act.requested_by


def _reasons(act: PastAct) -> list[str]:
    """Return the lines below the act: why it ended so, who approved, waivers and late pods."""
    reasons = [act.reason] if act.reason else []
    if act.approver:
        reasons.append(f"approved by {act.approver}")
    if act.signer:
        reasons.append(f"verdict signed by key {short(act.signer)}")
    if act.waiver_reason:
        reasons.append(f"gates waived: {act.waiver_reason}")
    # Most reasons name the pods already.
    unnamed = [pod for pod in act.behind if pod not in (act.reason or "")]
    if unnamed:
        reasons.append(f"behind: {', '.join(unnamed)}")
    if not act.written:
        reasons.append("not written to PostgreSQL yet")
    return reasons


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
    """List promotions and rollbacks, the newest first.

    Each has its versions, who requested it, who approved it, the key that signed its verdict, its
    outcome and why, its duration, and the pods that had not followed at its end. "Not
    authenticated" means that nothing proves the requester's name.

    While PostgreSQL is down, only the rows that the serving record still keeps are listed, and the
    exit code is 75.
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
            f"only the rows that the serving record keeps for PostgreSQL are listed: {failure}"
        ) from failure


if __name__ == "__main__":
    run(command)
