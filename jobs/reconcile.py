"""Make the registry's alias and the `promotions` rows match the serving record.

A change that was made by hand is reported and left as it is. The supervisor runs this job every
20 s, the chart as a CronJob.
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
from jobs.runner import json_option, notices, print_json, run, say, state_option

LOCK_SECONDS = 1.0
# A promoter that died keeps its Lease until a candidate has watched the Lease for its full
# duration. The wait must be longer than that.
CLUSTER_LOCK_SECONDS = 40.0


async def reconcile_all(settings: PromoteJobSettings, state: State) -> tuple[ReconcileResult, int]:
    """Update the rows and the alias. Return the result and the number of written rows.

    Raises StoreDownError while a promotion holds the lock or the record's store is unavailable.
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
            # PostgreSQL is down. The alias is in MLflow and can still be updated.
            late = ("rows",)
        result = await reconcile(context.records, context.aliases)
        return replace(result, late=(*result.late, *late)), rows


@click.command(name="reconcile")
@json_option
@state_option
def command(as_json: bool, state: State) -> str:
    """Update the registry's alias and the promotions rows to match the serving record."""
    result, rows = asyncio.run(reconcile_all(PromoteJobSettings.from_environment(), state))
    report = asdict(result) | {
        "rows": rows,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    state.run.mkdir(parents=True, exist_ok=True)
    write_atomically(state.run / "reconcile.json", json.dumps(report).encode(), durable=True)
    if as_json:
        print_json(report)
    elif result.alias:
        notices.print(result.alias, markup=False)
    if result.late:
        raise StoreDownError(
            f"not up to date: {', '.join(result.late)}; the next run updates them when PostgreSQL "
            "and MLflow are back"
        )
    return result.alias or "alias and rows match the serving record"


if __name__ == "__main__":
    run(command)
