"""Train, validate, promote as one: it ends at the first gate that refuses, and another try of the
same request goes on where the last one ended.

Only the promotion takes the promotion's lock: hours of training hold up nobody's rollback. What
was promoted meanwhile is compared again there.
"""

import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.console import Console

from fraudops import endpoints
from fraudops.errors import FraudopsError, RefusedError
from fraudops.promotion.convergence import PromotionResult
from fraudops.promotion.serving_record import ServingRecord, Strategy
from fraudops.registry import TAG_REQUEST, ModelVersion, Registry
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.validation.gates import GateSettings
from fraudops.wiring import read_record
from jobs.on_cluster import on_cluster
from jobs.options.training import TrainingInputs, training_options
from jobs.promote import outcome_of, promote_version
from jobs.reports.validation import Screen
from jobs.runner import json_option, notices, output, print_json, run, state_option
from jobs.train import report as report_training
from jobs.train import said, train_and_register
from jobs.validate import DataOptions, ValidationSite, next_command, refusal, validate_version


@dataclass
class PipelineSteps:
    """How far it came: which steps this try took itself, and what became of the promotion."""

    version: str | None = None
    taken: list[str] = field(default_factory=list)
    promotion: PromotionResult | None = None


@dataclass(frozen=True)
class Pipeline:
    """One request's way to production. `first_only` refuses to replace a version that serves."""

    state: State
    settings: PromoteJobSettings
    plan: TrainingInputs
    console: Console
    first_only: bool = False

    def run(self, steps: PipelineSteps) -> PromotionResult:
        """Fills `steps` on the way.

        Raises RefusedError at a gate that refuses, StoreDownError, DataError, SettingsError.
        """
        refuse_sample(self.settings, self.plan)
        request = self.settings.request_id or str(uuid.uuid4())
        record = read_record(self.settings.cluster, self.state)
        if record.current and record.current.by == request:
            steps.version, strategy = record.current.version, record.current.strategy
        else:
            version = self._validated(self._trained(request, steps), steps)
            steps.version, strategy = version.version, strategy_for(version, record)
        self._title(3, "promote", f"version {steps.version} by {strategy}")
        steps.promotion = promote_version(
            self.state, steps.version, strategy=strategy, first_only=self.first_only
        )
        steps.taken.append("promote")
        return steps.promotion

    @property
    def _registry(self) -> Registry:
        return Registry(endpoints.mlflow_url(self.state), self.settings.model_name)

    def _trained(self, request: str, steps: PipelineSteps) -> ModelVersion:
        registry = self._registry
        known = [
            version for version in registry.versions() if version.tags.get(TAG_REQUEST) == request
        ]
        if known:
            self._title(1, "train", f"an earlier try has registered version {known[0].version}")
            steps.version = known[0].version
            return known[0]
        self._title(1, "train", self.plan.source or "the packaged sample")
        registered = train_and_register(
            registry, endpoints.mlflow_url(self.state), self.plan, request
        )
        report_training(registered, registry.model, self.console)
        self.console.print(said(registered, registry.model))
        steps.version = registered.version
        steps.taken.append("train")
        return registry.version(registered.version)

    def _validated(self, version: ModelVersion, steps: PipelineSteps) -> ModelVersion:
        verdict = version.verdict or {}
        if verdict.get("passed") and verdict.get("digest") == version.digest:
            self._title(2, "validate", f"version {version.version} has passed in an earlier try")
            return version
        self._title(2, "validate", f"version {version.version}")
        site = ValidationSite(self._registry, self.state, self.settings.cluster)
        data = DataOptions(self.plan.source, self.plan.schema, self.plan.prevalence)
        found, stored = validate_version(
            site,
            version.version,
            data,
            GateSettings(**self.settings.gates.model_dump()),
            Screen(self.console),
        )
        steps.taken.append("validate")
        if not stored["passed"]:
            raise refusal(found, next_command(found, False, self.state))
        return version

    def _title(self, number: int, name: str, what: str) -> None:
        self.console.print(f"\n[bold]{number} of 3: {name}[/], {what}")


def refuse_sample(settings: PromoteJobSettings, plan: TrainingInputs) -> None:
    """Before any time is spent: production will not take a model of the packaged sample.

    Raises RefusedError.
    """
    if plan.source is None and settings.environment == "production":
        raise RefusedError(
            "this would train on the packaged sample, and production refuses such a model: name your own data (`--data FILE`)"
        )


def strategy_for(version: ModelVersion, record: ServingRecord) -> Strategy:
    """A change of schema goes by rollout."""
    current = record.current
    return (
        "rollout"
        if current and current.schema_fingerprint != version.schema_fingerprint
        else "broadcast"
    )


def summary(steps: PipelineSteps, error: FraudopsError | None, seconds: float) -> dict[str, Any]:
    """What `--json` prints; `reason` says why it ended early."""
    promotion = asdict(steps.promotion) if steps.promotion else None
    return {
        "version": steps.version,
        "taken": steps.taken,
        "promotion": promotion,
        "reason": str(error) if error else None,
        "seconds": round(seconds, 3),
    }


@on_cluster("pipeline")
@click.command(name="pipeline")
@training_options
@json_option
@state_option
def command(as_json: bool, state: State, **training: Any) -> str:
    """Train, validate and promote a model.

    Ends at the first gate that refuses, with exit code 65; nothing in production has changed then.
    """
    started = time.monotonic()
    pipeline = Pipeline(
        state,
        PromoteJobSettings.from_environment(),
        TrainingInputs.of(**training),
        notices if as_json else output,
    )
    steps, failure, said = PipelineSteps(), None, ""
    try:
        said = outcome_of(pipeline.run(steps), time.monotonic() - started)
        pipeline.console.print(said)
    except FraudopsError as error:
        failure = error
        raise
    finally:
        if as_json:
            print_json(summary(steps, failure, time.monotonic() - started))
    return said


if __name__ == "__main__":
    run(command)
