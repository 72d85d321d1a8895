"""Create a first model if none serves yet.

The chart runs this program after an installation. It waits for each component that it needs and
prints its name. Then it trains, validates and promotes.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
from jobs.options.steps import HandOver, Step, StepOptions, step_options
from jobs.options.training import TrainingInputs, inputs_of, training_options
from jobs.pipeline import Pipeline, PipelineSteps, refuse_sample
from jobs.reports.promotion import ending
from jobs.runner import (
    notices,
    output,
    retry_until,
    run,
    state_option,
    target_options,
    wait_option,
)


def serves_already(record: ServingRecord, request: str | None) -> str | None:
    """Return the message for "nothing to do", or None while this request still has work.

    If an earlier try of this request committed a version, that version must be confirmed.
    """
    current = record.current
    if current is None or (request is not None and current.by == request):
        return None
    return f"version {current.version} serves already: nothing to do"


async def check_database(url: str) -> None:
    """Raise StoreDownError until the audit's tables exist."""
    with translated(url, refusal="refuses to read promotions"):
        async with open_connection(url, "fraudops-bootstrap") as connection:
            await connection.execute("SELECT FROM promotions LIMIT 1")


async def check_pods(settings: PromoteJobSettings, state: State) -> None:
    """Raise StoreDownError until the serving record exists and all pods of the service answer."""
    async with open_promotion_context(settings, state, _ignore) as context:
        ports = context.ports
        if (await ports.records.read())[1] is None:
            raise StoreDownError("the serving record does not exist yet: the setup Job creates it")
        pods, desired = await ports.pods.list(), await ports.pods.desired_replicas()
        if len(pods) < desired:
            raise StoreDownError(f"{len(pods)} of {desired} pods of the inference service exist")
        for pod in pods:
            try:
                await ports.pods.epoch(pod)
            except PodUnresponsiveError as error:
                raise StoreDownError(f"pod {pod.name} does not answer yet ({error})") from error


def _ignore(_text: str) -> None:
    pass


def wait_for_all(settings: PromoteJobSettings, state: State, deadline: float) -> None:
    """Wait for every component in turn. Raises the last StoreDownError after the deadline."""
    registry = Registry(endpoints.mlflow_url(state), settings.model_name)
    checks: dict[str, Callable[[], Any]] = {
        "PostgreSQL has the audit's tables": lambda: asyncio.run(
            check_database(endpoints.database_url(state))
        ),
        "MLflow answers": registry.versions,
        "the pods of the inference service answer": lambda: asyncio.run(
            check_pods(settings, state)
        ),
    }
    for name, check in checks.items():
        retry_until(partial(_attempt, check), deadline)
        notices.print(name)


def _attempt(check: Callable[[], Any]) -> None:
    """Run a check, and turn a missing object or right into StoreDownError, which is retried.

    Kubernetes creates the objects of an installation in any order, Roles included.
    """
    from fraudops.cluster.api import ForbiddenError, NotFoundError

    try:
        check()
    except (ForbiddenError, NotFoundError) as error:
        raise StoreDownError(str(error)) from error


def wait_for_work(
    settings: PromoteJobSettings, state: State, inputs: TrainingInputs | None, deadline: float
) -> str | None:
    """Wait until a first model can be made. Returns the reason if there is nothing to do.

    Without `inputs` the next step refuses the packaged sample.
    """
    retry_until(partial(_attempt, lambda: read_record(settings.cluster, state)), deadline)
    message = serves_already(read_record(settings.cluster, state), settings.request_id)
    if message is None:
        if inputs:
            refuse_sample(settings, inputs)
        wait_for_all(settings, state, deadline)
    return message


def run_steps(pipeline: Pipeline, place: StepOptions, earlier: HandOver, started: float) -> str:
    """Run the step of this container, or all of them, and return the message of its end."""
    steps = PipelineSteps(earlier.version, list(earlier.taken))
    result = pipeline.take(place.step, steps)
    if result is None:
        place.write(HandOver(version=steps.version, taken=tuple(steps.taken)))
        return f"{place.step}: version {steps.version}"
    # Another promotion may have finished during the training. A model serves: a success.
    superseded = result.outcome in ("refused", "overtaken") and serves_already(
        read_record(pipeline.settings.cluster, pipeline.state), pipeline.settings.request_id
    )
    return superseded or (
        "the first model: "
        f"{ending(result, time.monotonic() - started, target_options(pipeline.state))}"
    )


@click.command(name="bootstrap")
@training_options
@step_options("wait", "train", "validate", "promote")
@wait_option(1800.0, "How long to wait for the components.")
@state_option
def command(
    step: Step | None, hand_over: Path | None, wait_seconds: float, state: State, **training: Any
) -> str:
    """Train, validate and promote a first model if none serves yet.

    Waits for PostgreSQL, MLflow and the pods. If a version serves, it changes nothing and exits
    with 0.
    """
    started, place = time.monotonic(), StepOptions.of(step, hand_over)
    settings, inputs = PromoteJobSettings.from_environment(), inputs_of(step, training)
    earlier = place.read()
    if step in (None, "wait"):
        nothing = wait_for_work(settings, state, None if step else inputs, started + wait_seconds)
        earlier = HandOver(nothing_to_do=nothing)
        place.write(earlier)
    if earlier.nothing_to_do or step == "wait":
        message = earlier.nothing_to_do or "every component answers"
    else:
        pipeline = Pipeline(state, settings, inputs, output, if_epoch=0)
        message = run_steps(pipeline, place, earlier, started)
    output.print(message)
    return message


if __name__ == "__main__":
    run(command)
