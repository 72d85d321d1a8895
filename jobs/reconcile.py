"""Brings alias and `promotions` rows after the serving record, and writes down what was moved by hand. The supervisor runs it every 20 s."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime

import click

from fraudops.errors import StoreDownError
from fraudops.promotion.here import RegistryAliases, local_journal, local_lock, local_records, local_registry
from fraudops.promotion.local import write_durably
from fraudops.promotion.reconcile import Findings, reconcile
from fraudops.state import State
from jobs.entry import json_option, notices, print_json, run, state_option
from jobs.promote import MODEL, say


async def bring_after(state: State) -> tuple[Findings, int]:
    """The findings, and the number of rows that were late. Raises StoreDownError when a promotion has the lock or a store is away."""
    async with local_lock(state, wait_seconds=1.0).hold("reconcile"):
        rows = 0
        try:
            rows = await local_journal(state, MODEL, say).flush()
        except StoreDownError:
            say("PostgreSQL is away: rows of promotions are still late")
        return await reconcile(local_records(state), RegistryAliases(local_registry(state, MODEL))), rows


@click.command(name="reconcile")
@json_option
@state_option
def command(as_json: bool, state: State) -> None:
    """Bring the registry's alias and the promotions rows after the serving record."""
    findings, rows = asyncio.run(bring_after(state))
    found = asdict(findings) | {"rows": rows, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    state.run.mkdir(parents=True, exist_ok=True)
    write_durably(state.run / "reconcile.json", json.dumps(found).encode())
    if as_json:
        print_json(found)
    elif findings.alias:
        notices.print(findings.alias)


if __name__ == "__main__":
    run(command)
