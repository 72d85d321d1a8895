"""`helm test`: score a known transaction through the Service and wait for its audit row."""

import asyncio
import os
import time
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops import endpoints
from fraudops.errors import RefusedError, SettingsError, StoreDownError
from fraudops.ids import TEST_PREFIX
from jobs.options.data import schema_option
from jobs.options.service import open_client, url_option
from jobs.runner import notices, output, run, state_option, wait_option

if TYPE_CHECKING:
    from fraudops.client import PredictResponse
    from fraudops.state import State

POLL_SECONDS = 0.5
AUDIT_ROW = """
SELECT fraud_probability, prediction, model_version, transaction_id, pod
FROM predictions WHERE id = $1
"""


def known_transaction(schema: Path | None) -> dict[str, float]:
    """Return the packaged transaction, or for another schema the middle of every range."""
    import msgspec

    from fraudops.schema import load_schema

    packaged = msgspec.json.decode(
        resources.files("fraudops.datasets").joinpath("sample/transaction.json").read_bytes(),
        type=dict[str, float],
    )
    expected = load_schema(schema)
    if set(packaged) == set(expected.names):
        return packaged
    return {feature.name: (feature.minimum + feature.maximum) / 2 for feature in expected.features}


async def audit_row(url: str, prediction_id: str, seconds: float) -> Mapping[str, Any]:
    """Wait for the row of a prediction and return it.

    Raises StoreDownError if the row does not arrive in time, or if PostgreSQL is down.
    """
    from fraudops.audit.connection import open_connection
    from fraudops.audit.database import translated

    deadline = time.monotonic() + seconds
    with translated(url, refusal="refuses to read predictions"):
        async with open_connection(url, "fraudops-acceptance") as connection:
            while True:
                row: Mapping[str, Any] | None = await connection.fetchrow(
                    AUDIT_ROW, uuid.UUID(prediction_id)
                )
                if row:
                    return row
                if time.monotonic() > deadline:
                    raise StoreDownError(
                        f"no audit row of prediction {prediction_id} after {seconds:g} s: see the "
                        "shipper's log"
                    )
                await asyncio.sleep(POLL_SECONDS)


def compare(answer: "PredictResponse", row: Mapping[str, Any], transaction_id: str) -> None:
    """Raise RefusedError, naming the column, if the audit row differs from the answer."""
    expected = {
        "fraud_probability": answer.fraud_probability,
        "prediction": answer.prediction,
        "model_version": answer.model_version,
        "transaction_id": transaction_id,
    }
    for column, value in expected.items():
        if row[column] != value:
            raise RefusedError(f"the audit row and the answer differ in the column {column}")


@click.command(name="acceptance")
@click.option("--needs-key", is_flag=True, help="The service refuses callers without a key.")
@wait_option(120.0, "How long to wait for the row.")
@url_option
@schema_option
@state_option
def command(
    needs_key: bool, wait_seconds: float, url: str | None, schema: Path | None, state: "State"
) -> None:
    """Score a known transaction through the service and find its audit row."""
    if needs_key and not os.environ.get("FRAUDOPS_API_KEY"):
        raise SettingsError(
            "clientAuth.mode is required, and this test has no key: make one with the scope "
            "predict, and name its Secret in clientAuth.testKeyExistingSecret"
        )
    # The prefix lets monitor count tests apart from real traffic.
    transaction_id = f"{TEST_PREFIX}{uuid.uuid4().hex}"
    with open_client(url, state) as client:
        client.ready()
        answer = client.predict(known_transaction(schema), transaction_id)
    output.print(
        f"version {answer.model_version} answers {answer.fraud_probability:.6f}, "
        f"prediction {answer.prediction}"
    )
    notices.print("waiting for its audit row")
    row = asyncio.run(audit_row(endpoints.database_url(state), answer.prediction_id, wait_seconds))
    compare(answer, row, transaction_id)
    output.print(f"its audit row is in PostgreSQL, written by {row['pod']}")


if __name__ == "__main__":
    run(command)
