"""`fraudops monitor`: recent traffic, decisions, latency and live quality, computed in SQL."""

import asyncio
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.endpoints import database_url
from fraudops.ids import TEST_PREFIX
from fraudops.settings import ClusterJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import on_cluster
from jobs.reports.monitor import (
    RATIOS,
    activity_table,
    estimate_note,
    labels_mapping,
    labels_note,
    quality_note,
    quality_table,
    refused_mapping,
    refused_note,
    shipper_phase,
    spool_note,
)
from jobs.runner import json_option, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.audit.activity import Activity
    from fraudops.audit.labels import LabelActivity
    from fraudops.audit.refused import RefusedTransactions

SPOOLS_NOT_READ = (
    "Predictions that are still in the pods' spools are not in these figures: see "
    "fraudops_spool_bytes in the metrics of every pod."
)


@dataclass(frozen=True)
class Monitored:
    """The figures of a window: the answers in total and by version, labels and refusals."""

    total: "Activity"
    versions: "list[Activity]"
    labels: "LabelActivity"
    refused: "RefusedTransactions"


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
    """Show volume, decisions, latency and live quality, in total and by version.

    If a transaction is sent again within 24 hours, only its first answer counts as a decision.
    If a decision has several labels, the latest one counts. Labels that match no answer and
    transactions that were refused are shown too. Windows of more than about 200,000 answers are
    sampled, and the figures come with their margins.
    """
    settings = ClusterJobSettings.from_environment()
    model_name = settings.model_name
    window = "hour" if hours == 1 else f"{hours:g} hours"
    until = datetime.now(UTC)
    since = until - timedelta(hours=hours)
    found = asyncio.run(_read(database_url(state), since, until, model_name))
    # In the cluster each pod has its own spool, which this Job cannot read.
    shipper = None if settings.cluster.release else read_shipper_status(state)
    if as_json:
        print_json(report(model_name, since, until, found, shipper))
    else:
        _show(f"{model_name}, the last {window} (since {since:%Y-%m-%d %H:%M} UTC)", found)
        spool = SPOOLS_NOT_READ if settings.cluster.release else spool_note(shipper, until)
        output.print(spool, markup=False)
    about = "about " if found.total.estimated else ""
    return (
        f"{about}{found.total.answers:,} answers in the last {window}, "
        f"{found.total.frauds:,} decided as fraud"
    )


async def _read(url: str, since: datetime, until: datetime, model_name: str) -> Monitored:
    from fraudops.audit.activity import activity
    from fraudops.audit.database import create_engine
    from fraudops.audit.labels import label_activity
    from fraudops.audit.refused import refused_transactions

    engine = create_engine(url)
    try:
        return Monitored(
            *await activity(engine, since, until, model_name),
            await label_activity(engine, since, until, datetime.now(UTC)),
            await refused_transactions(engine, since, until, model_name),
        )
    finally:
        await engine.dispose()


def report(
    model_name: str,
    since: datetime,
    until: datetime,
    found: Monitored,
    shipper: ShipperStatus | None,
) -> dict[str, Any]:
    """Return the object that `--json` prints. A ratio whose denominator is 0 is null."""
    spool = None
    if shipper:
        spool = {
            "shipper": shipper_phase(shipper, until),
            "waiting_bytes": shipper.backlog_bytes,
            "oldest_at": shipper.oldest_at.isoformat() if shipper.oldest_at else None,
            "last_error": shipper.last_error,
        }
    return {
        "model": model_name,
        "since": since.isoformat(),
        "until": until.isoformat(),
        "total": _mapping(found.total),
        "versions": [_mapping(version) for version in found.versions],
        "labels": labels_mapping(found.labels),
        "refused": refused_mapping(found.refused, found.total.answers),
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


def _show(title: str, found: Monitored) -> None:
    output.print(title, markup=False)
    if found.total.answers:
        _show_answers(found.total, found.versions)
    else:
        output.print("Nothing was answered in this window. Send something: fraudops simulate")
    for note in (
        refused_note(found.refused, found.total.answers),
        labels_note(found.labels),
    ):
        if note:
            output.print(note, markup=False)


def _show_answers(total: "Activity", versions: "list[Activity]") -> None:
    rows = [*versions, total] if len(versions) > 1 else versions
    print_table(output, activity_table(rows))
    if total.answers != total.decisions:
        repeats = total.answers - total.decisions
        output.print(
            f"{repeats:,} answers repeat a transaction of the 24 hours before. All are audited, "
            "and the first answer is the one decision."
        )
    if total.tests:
        output.print(
            f"Tests of the installation among these answers: {total.tests:,} "
            f"(their transaction_id begins with {TEST_PREFIX})"
        )
    output.print(quality_note(total))
    if total.labelled:
        print_table(output, quality_table(rows))
    if total.estimated:
        output.print(estimate_note(total))


if __name__ == "__main__":
    run(command)
