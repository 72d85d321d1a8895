"""Options of a training run, for train, pipeline and the first model of an installation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from fraudops.training.settings import ALGORITHMS, TrainingSettings, training_settings
from jobs.options.data import data_option, prevalence_option, schema_option
from jobs.options.steps import Step

Command = TypeVar("Command", bound=Callable[..., Any])
_OPTIONS = (
    data_option,
    schema_option,
    prevalence_option,
    click.option(
        "--algorithm", type=click.Choice(list(ALGORITHMS)), help="[default: logistic-regression]"
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        help="A hyperparameter, e.g. C=0.1, max_iter=200 or class_weight=balanced; repeatable.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML with algorithm, hyperparameters, seed, split, costs; flags override it.",
    ),
    click.option(
        "--split",
        type=click.Choice(["time", "stratified"]),
        help="How rows are divided into train, validation and test. [default: time]",
    ),
    click.option("--seed", type=int, help="Seed of every random choice. [default: 7]"),
    click.option(
        "--fee",
        type=float,
        help="Cost of a missed fraud in addition to its amount. [default: 15]",
    ),
    click.option("--review", type=float, help="Cost of a review. [default: 5]"),
)


@dataclass(frozen=True)
class TrainingInputs:
    """The rows and the settings of one training run; `source` None is the packaged sample."""

    source: str | None
    schema: Path | None
    prevalence: float | None
    settings: TrainingSettings

    @classmethod
    def of(
        cls,
        source: str | None,
        schema: Path | None,
        prevalence: float | None,
        config: Path | None,
        **flags: Any,
    ) -> "TrainingInputs":
        """Build the inputs from the values of the options above. Raises SettingsError."""
        return cls(source, schema, prevalence, training_settings(config, **flags))


def inputs_of(step: Step | None, training: dict[str, Any]) -> TrainingInputs:
    """Return the inputs of a pipeline's step, from the values of the options below.

    A step that neither trains nor validates mounts no data, so it must not read `--config`.
    Raises SettingsError.
    """
    if step in ("wait", "promote"):
        return TrainingInputs(None, None, None, TrainingSettings())
    return TrainingInputs.of(**training)


def training_options(command: Command) -> Command:
    """Decorate a command with all options of a training run."""
    # Decorators apply from the inside out. Reversed, --help lists the options in order.
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
