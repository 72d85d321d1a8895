"""Scores a known transaction through the Service and waits for its audit row: `helm test`."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops import endpoints
from fraudops.errors import RefusedError, StoreDownError
from fraudops.ids import TEST_PREFIX
from jobs.options.data import schema_option
from jobs.options.service import open_client, url_option
from jobs.runner import notices, output, run, state_option

if TYPE_CHECKING:
    from fraudops.client import PredictResponse
    from fraudops.state import State

PAUSE_SECONDS = 0.5
COLUMNS = "SELECT fraud_probability, prediction, model_version, transaction_id, pod FROM predictions WHERE id = $1"


def known_transaction(schema: Path | None) -> dict[str, float]:
    """The packaged one; for another schema the middle of every feature's range."""
    import msgspec

    from fraudops.schema import load_schema

    packaged = msgspec.json.decode(
        resources.files("fraudops.datasets").joinpath("sample/transaction.json").read_bytes(),
        type=dict[str, float],
    )
    wanted = load_schema(schema)
    if set(packaged) == set(wanted.names):
        return packaged
    return {feature.name: (feature.minimum + feature.maximum) / 2 for feature in wanted.features}


async def audit_row(url: str, prediction_id: str, seconds: float) -> Mapping[str, Any]:
    """Raises StoreDownError when it has not arrived in time."""
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated

    deadline = time.monotonic() + seconds
    while True:
        with translated(url):
            async with open_connection(url, "fraudops-acceptance") as connection:
                row: Mapping[str, Any] | None = await connection.fetchrow(
                    COLUMNS, uuid.UUID(prediction_id)
                )
        if row:
            return row
        if time.monotonic() > deadline:
            raise StoreDownError(
                f"no audit row of prediction {prediction_id} after {seconds:g} s: see the shipper's log"
            )
        await asyncio.sleep(PAUSE_SECONDS)


def compare(answer: "PredictResponse", row: Mapping[str, Any], transaction_id: str) -> None:
    """Raises RefusedError naming the column in which answer and audit differ."""
    answered = {
        "fraud_probability": answer.fraud_probability,
        "prediction": answer.prediction,
        "model_version": answer.model_version,
        "transaction_id": transaction_id,
    }
    for column, value in answered.items():
        if row[column] != value:
            raise RefusedError(f"the audit row says another {column} than the answer")


@click.command(name="acceptance")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the row.",
)
@url_option
@schema_option
@state_option
def command(wait_seconds: float, url: str | None, schema: Path | None, state: "State") -> None:
    """Score a known transaction through the service and find its audit row."""
    transaction_id = f"{TEST_PREFIX}{uuid.uuid4().hex}"
    with open_client(url, state) as client:
        client.ready()
        answer = client.predict(known_transaction(schema), transaction_id)
    output.print(
        f"version {answer.model_version} answers {answer.fraud_probability:.6f}, prediction {answer.prediction}"
    )
    notices.print("waiting for its audit row")
    row = asyncio.run(audit_row(endpoints.database_url(state), answer.prediction_id, wait_seconds))
    compare(answer, row, transaction_id)
    output.print(f"its audit row is in PostgreSQL, written by {row['pod']}")


if __name__ == "__main__":
    run(command)
