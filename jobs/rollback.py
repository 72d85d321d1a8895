"""Goes back to what served before: the top of the record's stack. Needs neither MLflow nor PostgreSQL."""

import asyncio
import time
import uuid

import click

from fraudops.errors import RefusedError
from fraudops.promotion.convergence import Result
from fraudops.promotion.here import local_promoter
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.ports import Candidate
from fraudops.promotion.protocol import Request
from fraudops.promotion.record import ServingRecord
from fraudops.state import State
from jobs.entry import json_option, run, state_option
from jobs.promote import MODEL, report, say, who


async def choose(record: ServingRecord) -> Candidate:
    """The entry to go back to, with the verdict or waiver that it was promoted with."""
    if not record.stack:
        raise RefusedError("there is no earlier version to go back to")
    entry = record.stack[0]
    return Candidate(entry.version, entry.digest, entry.schema_fingerprint, entry.verdict, entry.waiver)


def roll_back(state: State) -> Result:
    record, _ = FileRecordStore(state.serving_record).read()
    crosses = bool(record.current and record.stack and record.stack[0].schema_fingerprint != record.current.schema_fingerprint)
    request = Request(
        id=str(uuid.uuid4()),
        requested_by=who(),
        choose=choose,
        version=record.stack[0].version if record.stack else "",
        strategy="rollout" if crosses else "broadcast",
        rollback=True,
    )
    return asyncio.run(local_promoter(state, MODEL, say).run(request))


@click.command(name="rollback")
@json_option
@state_option
def command(as_json: bool, state: State) -> None:
    """Back to what served before; again, and it goes further back, never forward."""
    started = time.monotonic()
    report(roll_back(state), time.monotonic() - started, as_json)


if __name__ == "__main__":
    run(command)
