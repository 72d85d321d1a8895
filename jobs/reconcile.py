"""Make the registry's aliases and the rows of `promotions` match the serving record.

A change that was made by hand is reported and left as it is. The supervisor runs this job every
20 s, the chart as a CronJob.
"""

import asyncio
from dataclasses import asdict, replace
from datetime import UTC, datetime

import click

from fraudops.errors import StoreDownError
from fraudops.promotion.reconcile import Reconciler, ReconcileResult
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.runner import json_option, output, print_json, run, say, state_option

LOCK_SECONDS = 1.0
# A promoter that died keeps its Lease until a candidate has watched the Lease for its full
# duration. The wait must be longer than that.
CLUSTER_LOCK_SECONDS = 40.0


async def reconcile_all(settings: PromoteJobSettings, state: State) -> ReconcileResult:
    """Finish what is late. Raises StoreDownError when the record's store is unavailable."""
    wait_seconds = CLUSTER_LOCK_SECONDS if settings.cluster.release else LOCK_SECONDS
    async with open_promotion_context(settings, state, say, wait_seconds) as context:
        old, late = await _write_old_rows(context, state)
        result = await Reconciler(context.ports).run("reconcile")
    # Both may have found PostgreSQL down. The report names the rows once.
    return replace(result, rows=result.rows + old, late=tuple(dict.fromkeys(late + result.late)))


async def _write_old_rows(context: PromotionContext, state: State) -> tuple[int, tuple[str, ...]]:
    """Write the rows that release 0.2.0 left in a file; return their number and what is late."""
    try:
        return await context.rows.write_old_file(state.root / "promotions.pending"), ()
    except StoreDownError as error:
        say(f"rows of release 0.2.0 are late: {error}")
        return 0, ("rows",)


def sentence_of(result: ReconcileResult) -> str:
    """Return what the run did as one sentence. Raises StoreDownError when something is late."""
    if result.late:
        raise StoreDownError(
            f"not up to date: {', '.join(result.late)}; the next run writes them when PostgreSQL "
            "and MLflow answer"
        )
    if result.busy:
        return f"a promotion is under way ({result.busy}); it finishes its own work"
    matches = result.alias or "alias and rows match the serving record"
    return f"{matches} (rows written: {result.rows})" if result.rows else matches


@click.command(name="reconcile")
@json_option
@state_option
def command(as_json: bool, state: State) -> str:
    """Update the registry's alias and the promotions rows to match the serving record.

    While a promotion runs, it changes nothing and exits with 0.
    """
    result = asyncio.run(reconcile_all(PromoteJobSettings.from_environment(), state))
    if as_json:
        print_json(asdict(result) | {"at": datetime.now(UTC).isoformat(timespec="seconds")})
    sentence = sentence_of(result)
    if not as_json:
        output.print(sentence, markup=False)
    return sentence


if __name__ == "__main__":
    run(command)
