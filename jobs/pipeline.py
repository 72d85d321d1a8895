"""Train, validate and promote in one run, which ends at the first gate that refuses.

Another try of the same request continues where the last one ended. Only the promotion takes
the promotion lock, so hours of training do not delay a rollback. The promotion compares the
version again if another one was promoted during the training.

On one machine one process runs all steps. In a cluster each step is a container of one pod, which
has only the key that it needs (jobs.options.steps).
"""

import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fraudops import endpoints
from fraudops.errors import FraudopsError, RefusedError, SettingsError
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.request import PromotionResult
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import TAG_REQUEST, ModelVersion, Registry
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import read_record
from jobs.on_cluster import on_cluster
from jobs.options.steps import HandOver, Step, StepOptions, step_options
from jobs.options.training import TrainingInputs, inputs_of, training_options
from jobs.promote import PromotionOptions, promote_version
from jobs.reports.promotion import ending
from jobs.reports.validation import Screen
from jobs.runner import (
    json_option,
    notices,
    output,
    print_json,
    run,
    state_option,
    target_options,
)
from jobs.train import registration_line, train_and_register
from jobs.train import report as report_training
from jobs.validate import DataOptions, ValidationSite, next_command, refusal, validate_version


@dataclass
class PipelineSteps:
    """The progress of one try: the steps that it ran itself, and the promotion's result."""

    version: str | None = None
    taken: list[str] = field(default_factory=list)
    promotion: PromotionResult | None = None


@dataclass(frozen=True)
class Pipeline:
    """One request from training to production.

    With `if_epoch` the promotion is refused unless the serving record is at exactly this epoch.
    """

    state: State
    settings: PromoteJobSettings
    inputs: TrainingInputs
    console: Console
    if_epoch: int | None = None

    def take(self, step: Step | None, steps: PipelineSteps) -> PromotionResult | None:
        """Run one step, or with None all that are still missing, and note each in `steps`.

        Returns None after a step before the promotion. Raises RefusedError at a gate that refuses,
        StoreDownError, DataError or SettingsError.
        """
        if step == "train":
            refuse_sample(self.settings, self.inputs)
            self._trained(self._request, steps)
        elif step == "validate":
            self._validated(self._registry.find(_named(steps)), self._site, steps)
        elif step == "promote":
            return self._promoted(steps)
        else:
            return self.run(steps)
        return None

    def run(self, steps: PipelineSteps) -> PromotionResult:
        """Run the steps that are still missing in this process. Raises as `take` does."""
        refuse_sample(self.settings, self.inputs)
        if self._committed(self._record()) is None:
            # Before the training, because it refuses an installation without a key.
            site = self._site
            self._validated(self._trained(self._request, steps), site, steps)
        return self._promoted(steps)

    def _promoted(self, steps: PipelineSteps) -> PromotionResult:
        record = self._record()
        strategy: Strategy
        if committed := self._committed(record):
            steps.version = committed.version
            strategy = "rollout" if committed.strategy == "rollout" else "broadcast"
        else:
            strategy = strategy_for(self._registry.find(_named(steps)), record)
        version = _named(steps)
        self._title(3, "promote", f"version {version} by {strategy}")
        options = PromotionOptions(version, strategy, if_epoch=self.if_epoch)
        steps.promotion = promote_version(self.state, options)
        steps.taken.append("promote")
        return steps.promotion

    def _committed(self, record: ServingRecord) -> ServingEntry | None:
        """Return what an earlier try has committed. A promotion of it only confirms it."""
        request, current = self.settings.request_id, record.current
        return current if request and current and current.by == request else None

    def _record(self) -> ServingRecord:
        return read_record(self.settings.cluster, self.state)

    @property
    def _request(self) -> str:
        return self.settings.request_id or str(uuid.uuid4())

    @property
    def _registry(self) -> Registry:
        return Registry(endpoints.mlflow_url(self.state), self.settings.model_name)

    @property
    def _site(self) -> ValidationSite:
        return ValidationSite.of(self.settings, self.state)

    def _trained(self, request: str, steps: PipelineSteps) -> ModelVersion:
        """Return the version that an earlier try registered, or train one."""
        registry = self._registry
        known = [
            version for version in registry.versions() if version.tags.get(TAG_REQUEST) == request
        ]
        if known:
            # The oldest: a client of MLflow that reads the request there can tag a later one.
            own = known[-1]
            self._title(1, "train", f"an earlier try registered version {own.version}")
            steps.version = own.version
            return own
        self._title(1, "train", self.inputs.source or "the packaged sample")
        registered = train_and_register(
            registry, endpoints.mlflow_url(self.state), self.inputs, request
        )
        report_training(registered, self.console)
        self.console.print(registration_line(registered, registry.model))
        steps.version = registered.version
        steps.taken.append("train")
        return registry.version(registered.version)

    def _validated(
        self, version: ModelVersion, site: ValidationSite, steps: PipelineSteps
    ) -> ModelVersion:
        """Return the version once it has a passing verdict. Raises RefusedError."""
        if site.has_passed(version):
            self._title(2, "validate", f"version {version.version} passed in an earlier try")
            return version
        self._title(2, "validate", f"version {version.version}")
        found, judged = validate_version(
            site,
            version.version,
            DataOptions(self.inputs.source, self.inputs.schema, self.inputs.prevalence),
            self.settings.gates.as_gate_settings(),
            Screen(self.console),
        )
        steps.taken.append("validate")
        if not judged.passed:
            raise refusal(found, next_command(found, False, self.state))
        return version

    def _title(self, number: int, name: str, text: str) -> None:
        self.console.print(f"\n[bold]{number} of 3: {name}[/], {text}")


def _named(steps: PipelineSteps) -> str:
    if steps.version is None:
        raise SettingsError("no step before this one has named a version: run the whole pipeline")
    return steps.version


def refuse_sample(settings: PromoteJobSettings, inputs: TrainingInputs) -> None:
    """Refuse to train a model for production on the packaged sample.

    The promotion would refuse it as well, but only after the training. Raises RefusedError.
    """
    if inputs.source is None and settings.environment == "production":
        raise RefusedError(
            "this would train on the packaged sample, and production refuses such a model: name "
            "your own data (`--data FILE`)"
        )


def strategy_for(version: ModelVersion, record: ServingRecord) -> Strategy:
    """Return `rollout` if the promotion changes the schema, else `broadcast`."""
    current = record.current
    return (
        "rollout"
        if current and current.schema_fingerprint != version.schema_fingerprint
        else "broadcast"
    )


def summary(steps: PipelineSteps, error: FraudopsError | None, seconds: float) -> dict[str, Any]:
    """Return the object that `--json` prints; `reason` says why the run ended early."""
    return {
        "version": steps.version,
        "taken": steps.taken,
        "promotion": asdict(steps.promotion) if steps.promotion else None,
        "reason": str(error) if error else None,
        "seconds": round(seconds, 3),
    }


@on_cluster("pipeline")
@click.command(name="pipeline")
@training_options
@step_options("train", "validate", "promote")
@json_option
@state_option
def command(
    step: Step | None, hand_over: Path | None, as_json: bool, state: State, **training: Any
) -> str:
    """Train, validate and promote a model.

    Ends at the first gate that refuses, with exit code 65. Nothing in production has changed then.
    """
    started, place = time.monotonic(), StepOptions.of(step, hand_over)
    pipeline = Pipeline(
        state,
        PromoteJobSettings.from_environment(),
        inputs_of(step, training),
        notices if as_json else output,
    )
    earlier = place.read()
    steps, failure = PipelineSteps(earlier.version, list(earlier.taken)), None
    try:
        result = pipeline.take(step, steps)
        if result is None:
            place.write(HandOver(version=steps.version, taken=tuple(steps.taken)))
            return f"{step}: version {steps.version}"
        message = ending(result, time.monotonic() - started, target_options(state))
        pipeline.console.print(message)
    except FraudopsError as error:
        failure = error
        raise
    finally:
        # Printed after a failure too: the object names the completed steps.
        if as_json and (failure or place.is_last):
            print_json(summary(steps, failure, time.monotonic() - started))
    return message


if __name__ == "__main__":
    run(command)
