"""The whole product on one machine, as a user starts it with `fraudops up`."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fraudops import endpoints
from fraudops.state import State
from jobs.cli import SUPERVISOR, cli
from tests.support.commands import CommandResult, bare_environment, call
from tests.support.processes import lifeline


@dataclass(frozen=True)
class Platform:
    """The whole product, as `fraudops up --detach` leaves it."""

    state: State
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def inference_url(self) -> str:
        return endpoints.read(self.state).inference_url

    @property
    def database_url(self) -> str:
        return endpoints.read(self.state).database_url

    @property
    def mlflow_url(self) -> str:
        return endpoints.read(self.state).mlflow_url

    @property
    def admin_token(self) -> str:
        return self.state.admin_token.read_text().strip()

    def run(self, *arguments: str) -> CommandResult:
        """`fraudops COMMAND … --state FOLDER` in an environment of PATH and HOME only; in this
        process, unless it takes the process over.
        """
        if arguments[0] in SUPERVISOR:
            return self.start(*arguments)
        return call(
            "fraudops",
            cli,
            *arguments,
            "--state",
            self.state.root,
            **bare_environment(),
            **self.environment,
        )

    def start(self, *arguments: str) -> CommandResult:
        """The same in a process of its own."""
        command = [
            sys.executable,
            "-c",
            "from jobs.cli import main; main()",
            *arguments,
            "--state",
            str(self.state.root),
        ]
        environment = bare_environment() | self.environment
        told = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return CommandResult(told.returncode, told.stdout, told.stderr)


@contextlib.contextmanager
def down_at_the_end(folder: Path) -> Iterator[Platform]:
    """Of the block, or of the test process: nothing of what runs in `folder` is left."""
    platform = Platform(State.at(folder))
    with lifeline(sys.executable, "-m", "services.supervisor", "down", "--state", str(folder)):
        try:
            yield platform
        finally:
            down = platform.run("down")
            assert down.returncode == 0, down.stderr


@contextlib.contextmanager
def whole_platform(folder: Path) -> Iterator[Platform]:
    with down_at_the_end(folder) as platform:
        up = platform.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        yield platform
