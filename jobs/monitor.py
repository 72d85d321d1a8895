"""`fraudops monitor`: what was answered lately, how it was decided, how fast, and how right where
labels have come. Computed in SQL.
"""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.endpoints import database_url
from fraudops.ids import TEST_PREFIX
from fraudops.settings import ClusterJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.audit.activity import Activity

Found = tuple["Activity", list["Activity"]]
IN_THE_PODS = "What waits in the pods' spools is not in these figures: see fraudops_spool_bytes in their metrics."
RATIOS = ("fraud_rate", "label_coverage", "precision", "recall", "f1", "false_positive_rate")


@on_cluster("promote", "jobs.monitor")
@click.command()
@click.option(
    "--hours",
    type=click.FloatRange(0, 24 * 366, min_open=True),
    default=24.0,
    show_default=True,
    help="The window: the last N hours.",
)
@json_option
@state_option
def command(hours: float, as_json: bool, state: State) -> str:
    """Volume, decisions, latency and live quality, in all and by version.

    A transaction that was sent again within 24 hours is one decision, the first. Of the labels
    that a decision has, the one labelled last counts. Of more than about 200,000 answers a share
    is read, and what that leaves open is said.
    """
    settings = ClusterJobSettings.from_environment()
    model_name = settings.model_name
    window = "hour" if hours == 1 else f"{hours:g} hours"
    until = datetime.now(UTC)
    since = until - timedelta(hours=hours)
    found = asyncio.run(_ask(database_url(state), since, until, model_name))
    spools = IN_THE_PODS if settings.cluster.release else read_shipper_status(state)
    if as_json:
        print_json(
            report(
                model_name,
                since,
                until,
                found,
                spools if isinstance(spools, ShipperStatus) else None,
            )
        )
    else:
        _show(
            f"{model_name}, the last {window} (since {since:%Y-%m-%d %H:%M} UTC)",
            found,
            spools,
            until,
        )
    about = "about " if found[0].estimated else ""
    return f"{about}{found[0].answers:,} answers in the last {window}, {found[0].frauds:,} decided as fraud"


async def _ask(url: str, since: datetime, until: datetime, model_name: str) -> Found:
    from fraudops.audit.activity import activity
    from fraudops.audit.database import create_engine

    engine = create_engine(url)
    try:
        return await activity(engine, since, until, model_name)
    finally:
        await engine.dispose()


def report(
    model_name: str, since: datetime, until: datetime, found: Found, shipper: ShipperStatus | None
) -> dict[str, Any]:
    """What `--json` prints. A ratio without anything to divide by is null."""
    total, versions = found
    spool = None
    if shipper:
        spool = {
            "shipper": _doing(shipper, until),
            "waiting_bytes": shipper.backlog_bytes,
            "oldest_at": shipper.oldest_at.isoformat() if shipper.oldest_at else None,
            "last_error": shipper.last_error,
        }
    return {
        "model": model_name,
        "since": since.isoformat(),
        "until": until.isoformat(),
        "total": _mapping(total),
        "versions": [_mapping(version) for version in versions],
        "spool": spool,
    }


def _mapping(activity: "Activity") -> dict[str, Any]:
    moments = {
        name: moment.isoformat() if moment else None
        for name, moment in (("first", activity.first), ("last", activity.last))
    }
    figures = asdict(activity) | moments | {name: getattr(activity, name) for name in RATIOS}
    return figures | {
        "estimated": activity.estimated,
        "margins_95": activity.margins() if activity.estimated else None,
    }


def _show(title: str, found: Found, spools: "ShipperStatus | str | None", now: datetime) -> None:
    total, versions = found
    output.print(title, markup=False)
    if total.answers:
        print_table(output, _activity_table(total, versions))
        if total.answers != total.decisions:
            repeats = total.answers - total.decisions
            output.print(
                f"{repeats:,} answers repeat a transaction of the 24 hours before: each is audited, and its first answer is the one decision."
            )
        if total.tests:
            output.print(
                f"Tests of the installation among these answers: {total.tests:,} (their transaction_id begins with {TEST_PREFIX})"
            )
        output.print(_quality(total))
        if total.labelled:
            print_table(output, _quality_table(total, versions))
        if total.estimated:
            output.print(_estimated(total))
    else:
        output.print("Nothing was answered in this window. Send something: fraudops simulate")
    output.print(spools if isinstance(spools, str) else _waiting(spools, now), markup=False)


def _activity_table(total: "Activity", versions: list["Activity"]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("version")
    for title in ("answers", "decisions", "frauds", "rate", "mean p", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(title, justify="right")
    for row in [*versions, total] if len(versions) > 1 else versions:
        latencies = (
            f"{value:.2f}" if value is not None else ""
            for value in (row.latency_p50_ms, row.latency_p95_ms, row.latency_p99_ms)
        )
        probability = "" if row.mean_probability is None else f"{row.mean_probability:.4f}"
        table.add_row(
            _name(row),
            f"{row.answers:,}",
            f"{row.decisions:,}",
            f"{row.frauds:,}",
            _percent(row.fraud_rate),
            probability,
            *latencies,
        )
    return table


def _quality(total: "Activity") -> str:
    if not total.labelled:
        return "No labels have come for these decisions yet: precision and recall are not known. Labels come by POST /feedback."
    return f"Labels have come for {total.labelled:,} of {total.decisions:,} decisions ({_percent(total.label_coverage)}); among these:"


def _estimated(total: "Activity") -> str:
    """How the figures came about, and how far off they may be."""
    margins = total.margins()
    frauds = "all" if total.fraud_weight == 1 else f"one in {total.fraud_weight:,}"
    counts = ", ".join(
        f"{name} ± {margins[name]:,.0f}" for name in ("answers", "decisions", "frauds")
    )
    ratios = ", ".join(
        f"{name.replace('_', ' ')} ± {margins[name]:.2%}"
        for name in RATIOS
        if margins.get(name) is not None and getattr(total, name) is not None
    )
    read = f"Estimates from {total.read:,} answers: of those decided as fraud {frauds}, of the others one in {total.weight:,}."
    return f"{read} With 95 % confidence {counts}; {ratios}. A shorter window is counted."


def _quality_table(total: "Activity", versions: list["Activity"]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("version")
    for title in ("labelled", "precision", "recall", "F1", "false alarms", "caught", "missed"):
        table.add_column(title, justify="right")
    for row in [*versions, total] if len(versions) > 1 else versions:
        ratios = (
            _percent(value)
            for value in (row.precision, row.recall, row.f1, row.false_positive_rate)
        )
        table.add_row(
            _name(row),
            f"{row.labelled:,}",
            *ratios,
            f"{row.true_positives:,}",
            f"{row.false_negatives:,}",
        )
    return table


def _name(row: "Activity") -> str:
    return row.model_version or "all"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _doing(shipper: ShipperStatus, now: datetime) -> str:
    return "silent" if shipper.phase != "stopped" and shipper.stale(now) else shipper.phase


def _waiting(shipper: ShipperStatus | None, now: datetime) -> str:
    """What these figures lack because it is not in the table yet."""
    if shipper is None:
        return "No shipper has run in this state folder."
    doing = _doing(shipper, now)
    where = (
        ""
        if doing == "shipping"
        else f" The shipper is {doing}{f': {shipper.last_error}' if shipper.last_error else ''}."
    )
    if not shipper.backlog_bytes:
        return f"Everything answered is in the table.{where}"
    oldest = (
        f", the oldest from {shipper.oldest_at:%Y-%m-%d %H:%M:%S} UTC" if shipper.oldest_at else ""
    )
    return f"Still in the spool, and not in these figures: {shipper.backlog_bytes:,} bytes{oldest}.{where}"


if __name__ == "__main__":
    run(command)
