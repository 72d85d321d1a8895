"""Make the registry's aliases and the rows of `promotions` match the serving record.

A change that was made by hand is reported and left as it is. The supervisor runs this job every
20 s. The chart runs it with `--watch` as a Deployment of one pod.
"""

import asyncio
from dataclasses import asdict, replace
from datetime import UTC, datetime

import click

from fraudops.errors import FraudopsError, SettingsError, StoreDownError
from fraudops.progress import Say
from fraudops.promotion.reconcile import Reconciler, ReconcileResult
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.runner import json_option, output, print_json, run, say, state_option

LOCK_SECONDS = 1.0
# A promoter that died keeps its Lease until a candidate has watched the Lease for its full
# duration. The wait must be longer than that.
CLUSTER_LOCK_SECONDS = 40.0
# A pass of `--watch` ends after this time. The probe of the pod allows a little more.
PASS_SECONDS = 600.0
ALIVE = "reconcile-alive"


async def reconcile_all(
    settings: PromoteJobSettings, state: State, say: Say = say
) -> ReconcileResult:
    """Finish what is late. Raises StoreDownError when the record's store is unavailable."""
    wait_seconds = CLUSTER_LOCK_SECONDS if settings.cluster.release else LOCK_SECONDS
    async with open_promotion_context(
        settings, state, say, wait_seconds, calls_pods=False
    ) as context:
        old, late = await _write_old_rows(context, state, say)
        result = await Reconciler(context.ports).run("reconcile")
    # Both may have found PostgreSQL down. The report names the rows once.
    return replace(result, rows=result.rows + old, late=tuple(dict.fromkeys(late + result.late)))


async def _write_old_rows(
    context: PromotionContext, state: State, say: Say
) -> tuple[int, tuple[str, ...]]:
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


class News:
    """The lines of a pass that the pass before did not say. Most passes find nothing to do."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._before, self._now = set[str](), set[str]()

    def say(self, line: str) -> None:
        if line not in self._before | self._now:
            self._say(line)
        self._now.add(line)

    def end_pass(self) -> None:
        self._before, self._now = self._now, set()


class Watch:
    """Passes with a pause between them, until the process is stopped.

    A pass opens its own connections, so it follows a new token, a new password and a failover.
    """

    def __init__(self, settings: PromoteJobSettings, state: State, say: Say = say) -> None:
        self._settings, self._state = settings, state
        self._alive, self._news = state.run / ALIVE, News(say)

    async def run(self, every_seconds: float, pass_seconds: float = PASS_SECONDS) -> None:
        """Run passes until the task is cancelled. Raises SettingsError.

        A store that is unavailable does not end the process. Its pod would start again and again.
        """
        self._alive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            self._alive.touch()
            self._news.say(await self._pass(pass_seconds))
            self._news.end_pass()
            self._alive.touch()
            await asyncio.sleep(every_seconds)

    async def _pass(self, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                result = await reconcile_all(self._settings, self._state, self._news.say)
                return sentence_of(result)
        except TimeoutError:
            return f"this pass did not end in {seconds:g} s; the next one goes on"
        except SettingsError:
            raise
        except FraudopsError as error:
            return str(error)


@click.command(name="reconcile")
@click.option("--watch", is_flag=True, help="Go on until SIGTERM, with one pass after another.")
@click.option(
    "--every",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two passes of --watch.",
)
@json_option
@state_option
def command(watch: bool, every: float, as_json: bool, state: State) -> str:
    """Update the registry's alias and the promotions rows to match the serving record.

    While a promotion runs, it changes nothing and exits with 0.
    """
    settings = PromoteJobSettings.from_environment()
    if watch and as_json:
        raise SettingsError("--json is valid only without --watch")
    if watch:
        try:
            asyncio.run(Watch(settings, state).run(every))
        except KeyboardInterrupt:
            # SIGTERM too. The pass was cancelled and has released the lock.
            return "stopped"
    result = asyncio.run(reconcile_all(settings, state))
    if as_json:
        print_json(asdict(result) | {"at": datetime.now(UTC).isoformat(timespec="seconds")})
    sentence = sentence_of(result)
    if not as_json:
        output.print(sentence, markup=False)
    return sentence


if __name__ == "__main__":
    run(command)
