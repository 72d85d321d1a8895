"""What a training may be told, on the command line of train, pipeline and bootstrap alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from fraudops.training.settings import ALGORITHMS, TrainingSettings, training_settings
from jobs.options.data import data_option, prevalence_option, schema_option

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
        help="YAML with algorithm, hyperparameters, seed, split, costs; flags win over it.",
    ),
    click.option(
        "--split",
        type=click.Choice(["time", "stratified"]),
        help="How train, validation and test are parted. [default: time]",
    ),
    click.option("--seed", type=int, help="[default: 7]"),
    click.option(
        "--fee", type=float, help="What a missed fraud costs beyond its amount. [default: 15]"
    ),
    click.option("--review", type=float, help="What a review costs. [default: 5]"),
)


@dataclass(frozen=True)
class TrainingInputs:
    """Which rows to train on (None: the packaged sample) and how."""

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
        """From the options below. Raises SettingsError."""
        return cls(source, schema, prevalence, training_settings(config, **flags))


def training_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
