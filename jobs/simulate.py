"""`fraudops simulate`: send held-out transactions, with an optional drift, then their labels."""

import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops.errors import RefusedError, StoreDownError
from jobs.options.data import data_option, drift_option, schema_option, strength_option
from jobs.options.service import open_client, url_option
from jobs.reports.progress import count_bar
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.client import InferenceClient
    from fraudops.datasets import Dataset
    from fraudops.state import State
    from jobs.load_generator import Replay

LABELS_PER_CALL = 200
SOURCE = "simulate"
HELP = """Send held-out transactions to the service, then their labels.

The transactions are the data's test part, in time order.
"""


@click.command(help=HELP)
@click.option(
    "--rows",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of transactions; if the test part has fewer rows, they are drawn with "
    "replacement.",
)
@data_option
@schema_option
@drift_option
@strength_option
@click.option(
    "--labels/--no-labels",
    default=True,
    show_default=True,
    help="Send the true label of each transaction afterwards.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Transactions per second. [default: as fast as they are answered]",
)
@click.option(
    "--concurrency",
    default=8,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Number of connections.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of the drift and of the drawing.")
@url_option
@state_option
@json_option
def command(
    rows: int,
    source: str | None,
    schema: Path | None,
    drift: str | None,
    strength: float,
    labels: bool,
    rate: float | None,
    concurrency: int,
    seed: int,
    url: str | None,
    state: "State",
    as_json: bool,
) -> None:
    from jobs.load_generator import replay

    with open_client(url, state, concurrency) as client:
        client.ready()
        traffic, drifted, repeated = _traffic(rows, source, schema, drift, strength, seed)
        names = traffic.schema.names
        transactions = [dict(zip(names, row, strict=True)) for row in traffic.x.tolist()]
        with count_bar("transactions", rows) as progress:
            outcome = replay(
                client,
                transactions,
                f"sim-{uuid.uuid4().hex[:12]}",
                concurrency=concurrency,
                rate=rate,
                on_progress=progress,
            )
        sent_labels = _send_labels(client, outcome, traffic) if labels and not outcome.away else 0
    summary = _summary(outcome, traffic, rows, sent_labels) | {
        "repeated_rows": repeated,
        "drifted_rows": drifted,
    }
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    _raise_failures(outcome)


def _traffic(
    rows: int,
    source: str | None,
    schema: Path | None,
    drift: str | None,
    strength: float,
    seed: int,
) -> "tuple[Dataset, int, bool]":
    """Return the rows to send, how many a drift changed, and whether rows occur several times."""
    from fraudops.datasets import load, overlay, split
    from fraudops.datasets.traffic import spread_rows
    from fraudops.schema import load_schema

    test = split(load(source, load_schema(schema))).test
    # Spread over the whole test part, so that a short run covers its full period.
    chosen = spread_rows(len(test), rows, seed)
    repeated = rows > len(test)
    if repeated:
        notices.print(
            f"the test part has {len(test):,} rows: {rows:,} are drawn from it with replacement"
        )
    if drift is None:
        return test.take(chosen), 0, repeated
    # click has checked the name.
    test, affected = overlay(test, drift, seed, strength)  # type: ignore[arg-type]
    return test.take(chosen), int(affected[chosen].sum()), repeated


def _send_labels(client: "InferenceClient", outcome: "Replay", traffic: "Dataset") -> int:
    """Send the label of every answered transaction and return the number of labels."""
    from fraudops.client import Label

    at = datetime.now(UTC).isoformat()
    labels = [
        Label(label=int(truth), labelled_at=at, source=SOURCE, prediction_id=answer.prediction_id)
        for answer, truth in zip(outcome.answers, traffic.y, strict=True)
        if answer is not None
    ]
    with count_bar("labels", len(labels)) as progress:
        for start in range(0, len(labels), LABELS_PER_CALL):
            client.feedback(labels[start : start + LABELS_PER_CALL])
            progress(min(start + LABELS_PER_CALL, len(labels)))
    return len(labels)


def _summary(outcome: "Replay", traffic: "Dataset", rows: int, labels: int) -> dict[str, Any]:
    answered = [
        (answer, int(truth))
        for answer, truth in zip(outcome.answers, traffic.y, strict=True)
        if answer is not None
    ]
    versions = Counter(answer.model_version for answer, _truth in answered)
    return {
        "source": traffic.source,
        "rows": rows,
        "sent": outcome.sent,
        "answered": outcome.answered,
        "refused": outcome.refused,
        "failures": outcome.failed,
        "decisions": sum(answer.prediction for answer, _truth in answered),
        "frauds": sum(truth for _answer, truth in answered),
        "caught": sum(answer.prediction for answer, truth in answered if truth),
        "labels": labels,
        "versions": dict(sorted(versions.items())),
        "seconds": round(outcome.seconds, 3),
        "rate": round(outcome.sent / outcome.seconds, 1) if outcome.seconds else None,
    }


def _print(summary: dict[str, Any]) -> None:
    drifted = (
        f", {summary['drifted_rows']:,} of {summary['rows']:,} rows changed"
        if summary["drifted_rows"]
        else ""
    )
    lines = {
        "rows": f"{summary['source']}{drifted}",
        "sent": f"{summary['sent']:,}: {summary['answered']:,} answered, "
        f"{summary['refused']:,} refused, {summary['failures']:,} failures",
        "decisions": f"{summary['decisions']:,} flagged as fraud; {summary['caught']:,} of the "
        f"{summary['frauds']:,} true frauds caught",
        "labels": f"{summary['labels']:,} sent",
        "versions": ", ".join(
            f"{version} ({count:,})" for version, count in summary["versions"].items()
        )
        or "none answered",
        "time": f"{summary['seconds']:.1f} s, {summary['rate'] or 0:,.0f} transactions per second",
    }
    for name, line in lines.items():
        output.print(f"{name:<10} {line}", markup=False)


def _raise_failures(outcome: "Replay") -> None:
    """Raise StoreDownError if answers are missing, else RefusedError if rows were refused."""
    if outcome.failed:
        stopped = ", and the rest was not sent" if outcome.away else ""
        raise StoreDownError(
            f"{outcome.failed:,} of {outcome.sent:,} transactions got no answer{stopped}; "
            f"the last error: {outcome.reason}"
        )
    if outcome.refused:
        raise RefusedError(
            f"{outcome.refused:,} of {outcome.sent:,} transactions were refused; "
            f"the first error: {outcome.refusal}"
        )


if __name__ == "__main__":
    run(command)
