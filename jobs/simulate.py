"""`fraudops simulate`: held-out transactions as traffic, under a drift if asked, and their labels
afterwards.
"""

import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops.errors import RefusedError, StoreDownError
from jobs.options.data import data_option, drift_option, schema_option, strength_option
from jobs.options.service import open_client, url_option
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.client import InferenceClient
    from fraudops.datasets import Dataset
    from fraudops.state import State
    from jobs.load_generator import Replay

LABELS_A_CALL = 200
SOURCE = "simulate"


@click.command(
    help="Send held-out transactions (the data's test part, in time order) to the service, then their labels."
)
@click.option(
    "--rows",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many; more than the test part has are drawn with replacement.",
)
@data_option
@schema_option
@drift_option
@strength_option
@click.option(
    "--labels/--no-labels",
    default=True,
    show_default=True,
    help="Hand in afterwards what each transaction truly was.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Transactions a second. [default: as fast as they are answered]",
)
@click.option(
    "--concurrency",
    default=8,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Connections at once.",
)
@click.option(
    "--seed", default=7, show_default=True, help="Of the drift, and of drawing with replacement."
)
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
        traffic, touched, repeated = _traffic(rows, source, schema, drift, strength, seed)
        names = traffic.schema.names
        transactions = [dict(zip(names, row, strict=True)) for row in traffic.x.tolist()]
        with _bar("transactions", rows) as told:
            outcome = replay(
                client, transactions, f"sim-{uuid.uuid4().hex[:12]}", concurrency, rate, told
            )
        handed_in = _hand_in(client, outcome, traffic) if labels and not outcome.away else 0
    summary = _summary(outcome, traffic, rows, handed_in) | {
        "repeated_rows": repeated,
        "drifted_rows": touched,
    }
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    _judge(outcome)


def _traffic(
    rows: int,
    source: str | None,
    schema: Path | None,
    drift: str | None,
    strength: float,
    seed: int,
) -> "tuple[Dataset, int, bool]":
    """The rows to send, how many of them a drift touched, and whether rows had to be sent twice."""
    from fraudops.datasets import load, overlay, split
    from fraudops.datasets.traffic import spread_rows
    from fraudops.schema import load_schema

    test = split(load(source, load_schema(schema))).test
    chosen = spread_rows(len(test), rows, seed)
    repeated = rows > len(test)
    if repeated:
        notices.print(
            f"the test part has {len(test):,} rows: {rows:,} are drawn from them with replacement"
        )
    if drift is None:
        return test.take(chosen), 0, repeated
    test, affected = overlay(test, drift, seed, strength)  # type: ignore[arg-type]  # click has checked the name
    return test.take(chosen), int(affected[chosen].sum()), repeated


def _hand_in(client: "InferenceClient", outcome: "Replay", traffic: "Dataset") -> int:
    from fraudops.client import Label

    at = datetime.now(UTC).isoformat()
    known = [
        Label(label=int(truth), labelled_at=at, source=SOURCE, prediction_id=answer.prediction_id)
        for answer, truth in zip(outcome.answers, traffic.y, strict=True)
        if answer is not None
    ]
    with _bar("labels", len(known)) as told:
        for start in range(0, len(known), LABELS_A_CALL):
            client.feedback(known[start : start + LABELS_A_CALL])
            told(min(start + LABELS_A_CALL, len(known)))
    return len(known)


def _summary(outcome: "Replay", traffic: "Dataset", rows: int, handed_in: int) -> dict[str, Any]:
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
        "labels": handed_in,
        "versions": dict(sorted(versions.items())),
        "seconds": round(outcome.seconds, 3),
        "rate": round(outcome.sent / outcome.seconds, 1) if outcome.seconds else None,
    }


def _print(summary: dict[str, Any]) -> None:
    touched = (
        f", {summary['drifted_rows']:,} of {summary['rows']:,} rows touched"
        if summary["drifted_rows"]
        else ""
    )
    lines = {
        "rows": f"{summary['source']}{touched}",
        "sent": f"{summary['sent']:,}: {summary['answered']:,} answered, {summary['refused']:,} refused, {summary['failures']:,} failures",
        "decisions": f"{summary['decisions']:,} called fraud; {summary['caught']:,} of the {summary['frauds']:,} true frauds caught",
        "labels": f"{summary['labels']:,} handed in",
        "versions": ", ".join(
            f"{version} ({count:,})" for version, count in summary["versions"].items()
        )
        or "none answered",
        "time": f"{summary['seconds']:.1f} s, {summary['rate'] or 0:,.0f} transactions a second",
    }
    for name, line in lines.items():
        output.print(f"{name:<10} {line}", markup=False)


def _judge(outcome: "Replay") -> None:
    if outcome.failed:
        gave_up = ", and the rest was not sent" if outcome.away else ""
        raise StoreDownError(
            f"{outcome.failed:,} of {outcome.sent:,} transactions got no answer{gave_up}; the last: {outcome.reason}"
        )
    if outcome.refused:
        raise RefusedError(
            f"{outcome.refused:,} of {outcome.sent:,} transactions were refused; the first: {outcome.refusal}"
        )


def _bar(name: str, total: int) -> Any:
    from jobs.reports.data import count_bar

    return count_bar(name, total)


if __name__ == "__main__":
    run(command)
