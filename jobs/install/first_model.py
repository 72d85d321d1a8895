"""A first model where nothing serves yet: waits for what it needs, says what for, then goes the
whole road. Run by the chart after an installation.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import click

from fraudops import endpoints
from fraudops.audit.connection import open_connection
from fraudops.audit.database import translated
from fraudops.errors import StoreDownError
from fraudops.promotion.ports import PodUnresponsiveError
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import Registry
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import open_promotion_context, read_record
from jobs.install.databases import patiently
from jobs.options.training import TrainingInputs, training_options
from jobs.pipeline import Pipeline, PipelineSteps, refuse_sample
from jobs.promote import outcome_of
from jobs.runner import notices, output, run, state_option


def serves_already(record: ServingRecord, request: str | None) -> str | None:
    """What to say when there is nothing to do: a version of another request serves.

    An earlier try's own commit is still to be finished.
    """
    current = record.current
    return (
        f"version {current.version} serves already: nothing to do"
        if current and (request is None or current.by != request)
        else None
    )


async def database_answers(url: str) -> None:
    """Raises StoreDownError until the audit's tables are there."""
    with translated(url):
        async with open_connection(url, "fraudops-bootstrap") as connection:
            await connection.execute("SELECT FROM promotions LIMIT 1")


async def pods_answer(settings: PromoteJobSettings, state: State) -> None:
    """Raises StoreDownError until the serving record can be written and as many pods as are wanted
    answer.
    """
    async with open_promotion_context(settings, state, lambda _: None) as context:
        if (await context.records.read())[1] is None:
            raise StoreDownError("the serving record is not there yet: the setup Job makes it")
        pods, wanted = await context.pods.list(), await context.pods.desired_replicas()
        if len(pods) < wanted:
            raise StoreDownError(f"{len(pods)} of {wanted} pods of the inference service are there")
        for pod in pods:
            try:
                await context.pods.epoch(pod)
            except PodUnresponsiveError as error:
                raise StoreDownError(f"pod {pod.name} does not answer yet ({error})") from error


def wait_for_all(settings: PromoteJobSettings, state: State, deadline: float) -> None:
    """Raises the last StoreDownError once the deadline has passed."""
    registry = Registry(endpoints.mlflow_url(state), settings.model_name)
    checks: dict[str, Callable[[], Any]] = {
        "PostgreSQL has the audit's tables": lambda: asyncio.run(
            database_answers(endpoints.database_url(state))
        ),
        "MLflow answers": registry.versions,
        "the pods of the inference service answer": lambda: asyncio.run(
            pods_answer(settings, state)
        ),
    }
    for name, check in checks.items():
        patiently(_awaited(check), deadline)
        notices.print(name)


def _awaited(check: Callable[[], Any]) -> Callable[[], None]:
    """The check, for which what is not there or not allowed yet is worth waiting for: the objects
    of an installation come in any order.
    """
    from fraudops.cluster.api import ForbiddenError, NotFoundError

    def attempt() -> None:
        try:
            check()
        except (ForbiddenError, NotFoundError) as error:
            raise StoreDownError(str(error)) from error

    return attempt


@click.command(name="bootstrap")
@training_options
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the parts.",
)
@state_option
def command(wait_seconds: float, state: State, **training: Any) -> str:
    """Train, validate and promote a first model, where nothing serves yet.

    Waits for PostgreSQL, MLflow and the pods. Where a version serves it changes nothing and
    exits 0.
    """
    started = time.monotonic()
    settings, plan = PromoteJobSettings.from_environment(), TrainingInputs.of(**training)
    patiently(_awaited(lambda: read_record(settings.cluster, state)), started + wait_seconds)
    said = serves_already(read_record(settings.cluster, state), settings.request_id)
    if said is None:
        refuse_sample(settings, plan)
        wait_for_all(settings, state, started + wait_seconds)
        result = Pipeline(state, settings, plan, output, first_only=True).run(PipelineSteps())
        overtaken = result.outcome in ("refused", "overtaken") and serves_already(
            read_record(settings.cluster, state), settings.request_id
        )
        said = overtaken or f"the first model: {outcome_of(result, time.monotonic() - started)}"
    output.print(said)
    return said


if __name__ == "__main__":
    run(command)
