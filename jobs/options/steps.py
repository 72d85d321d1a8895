"""Steps of a pipeline that run as containers of one pod, and the file that they hand on.

Each container has only its own key, and only the last one has an account in Kubernetes. So the
steps share no memory, and a step trusts nothing in the file: validation reads the version from the
registry, and the promotion admits it by its verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import msgspec

from fraudops.canonical import canonical_json
from fraudops.errors import SettingsError
from fraudops.files import write_atomically

Command = TypeVar("Command", bound=Callable[..., Any])
Step = Literal["wait", "train", "validate", "promote"]


class HandOver(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps so far have done, as one JSON object.

    `taken` names the steps that this attempt ran. If `nothing_to_do` is set, it is the reason, and
    the remaining steps end with it.
    """

    version: str | None = None
    taken: tuple[str, ...] = ()
    nothing_to_do: str | None = None


@dataclass(frozen=True)
class StepOptions:
    """The step of this process and the file between the steps. None: all steps in this process."""

    step: Step | None = None
    file: Path | None = None

    @classmethod
    def of(cls, step: Step | None, hand_over: Path | None) -> "StepOptions":
        """Check the values of the options below. Raises SettingsError."""
        if (step is None) != (hand_over is None):
            raise SettingsError("--step and --hand-over are valid only together")
        return cls(step, hand_over)

    @property
    def is_last(self) -> bool:
        return self.step in (None, "promote")

    def read(self) -> HandOver:
        """Return what the steps before have done. Raises SettingsError for an unusable file."""
        if self.file is None or not self.file.exists():
            return HandOver()
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=HandOver)
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(
                f"{self.file} is not the hand-over of a pipeline's step ({error}): run the whole "
                "pipeline again"
            ) from error

    def write(self, content: HandOver) -> None:
        if self.file is not None:
            write_atomically(self.file, canonical_json(content))


def step_options(*steps: Step) -> Callable[[Command], Command]:
    """Return a decorator with the options that the chart gives to the containers of a pipeline."""
    options = (
        click.option("--step", type=click.Choice(steps), hidden=True),
        click.option("--hand-over", type=click.Path(path_type=Path), hidden=True),
    )

    def decorate(command: Command) -> Command:
        for option in options:
            command = option(command)
        return command

    return decorate
