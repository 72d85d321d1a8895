"""Brings alias and `promotions` rows after the serving record, and writes down what was moved by
hand. The supervisor runs it every 20 s.
"""

import asyncio
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import click

from fraudops.errors import StoreDownError
from fraudops.files import write_atomically
from fraudops.promotion.reconcile import ReconcileResult, reconcile
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import open_promotion_context
from jobs.promote import say
from jobs.runner import json_option, notices, print_json, run, state_option

# In the cluster a dead holder's lock is taken over only by whoever has watched it for the Lease's
# whole duration.
LOCK_SECONDS, CLUSTER_LOCK_SECONDS = 1.0, 40.0


async def bring_after(settings: PromoteJobSettings, state: State) -> tuple[ReconcileResult, int]:
    """The findings, and the number of rows that were brought.

    Raises StoreDownError when a promotion has the lock or the record's store is away.
    """
    wait_seconds = CLUSTER_LOCK_SECONDS if settings.cluster.release else LOCK_SECONDS
    async with (
        open_promotion_context(settings, state, say, wait_seconds) as context,
        context.lock.hold("reconcile"),
    ):
        record, token = await context.records.read()
        await context.promoter().undo_unfinished_rollout(record, token)
        rows, late = 0, tuple[str, ...]()
        try:
            rows = await context.journal.flush()
            await context.journal.bring_after(record)
        except StoreDownError:
            late = ("rows",)
        findings = await reconcile(context.records, context.aliases)
        return replace(findings, late=(*findings.late, *late)), rows


@click.command(name="reconcile")
@json_option
@state_option
def command(as_json: bool, state: State) -> str:
    """Bring the registry's alias and the promotions rows after the serving record."""
    findings, rows = asyncio.run(bring_after(PromoteJobSettings.from_environment(), state))
    found = asdict(findings) | {"rows": rows, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    state.run.mkdir(parents=True, exist_ok=True)
    write_atomically(state.run / "reconcile.json", json.dumps(found).encode(), durable=True)
    if as_json:
        print_json(found)
    elif findings.alias:
        notices.print(findings.alias)
    if findings.late:
        raise StoreDownError(
            f"still late: {', '.join(findings.late)}; they follow when PostgreSQL and MLflow are back"
        )
    return findings.alias or "alias and rows are as the serving record says"


if __name__ == "__main__":
    run(command)
