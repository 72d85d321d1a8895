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
    """The whole product as `fraudops up --detach` starts it."""

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
        """Run `fraudops COMMAND … --state FOLDER` with only PATH and HOME from the environment.

        The command runs in this process, unless it replaces the process that runs it.
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
        """Run the same command in a new process."""
        command = [
            sys.executable,
            "-c",
            "from jobs.cli import main; main()",
            *arguments,
            "--state",
            str(self.state.root),
        ]
        environment = bare_environment() | self.environment
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def down_at_the_end(folder: Path) -> Iterator[Platform]:
    """A product that is stopped when the block or the test process ends."""
    platform = Platform(State.at(folder))
    with lifeline(sys.executable, "-m", "services.supervisor", "down", "--state", str(folder)):
        try:
            yield platform
        finally:
            down = platform.run("down")
            assert down.returncode == 0, down.stderr


@contextlib.contextmanager
def whole_platform(folder: Path) -> Iterator[Platform]:
    """A running product, stopped when the block or the test process ends."""
    with down_at_the_end(folder) as platform:
        up = platform.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        yield platform
