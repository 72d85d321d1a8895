"""A job's command, called in this process as a user calls it in a shell.

A process for each call would cost a second.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.runner import run


@dataclass(frozen=True)
class CommandResult:
    returncode: int
    stdout: str
    stderr: str


class Caller:
    """Call the command with arguments, standard input and environment variables.

    The environment holds no other FRAUDOPS_ variable.
    """

    def __init__(
        self,
        name: str,
        command: Callable[..., object],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._name, self._command, self._monkeypatch, self._capsys = (
            name,
            command,
            monkeypatch,
            capsys,
        )

    def __call__(
        self, *arguments: str | Path, stdin: str = "", **environment: str
    ) -> CommandResult:
        code = 0
        with self._monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("FRAUDOPS_")]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", [self._name, *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            try:
                run(self._command)
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return CommandResult(code, *self._capsys.readouterr())


def call(
    name: str, command: Callable[..., object], *arguments: str | Path, **environment: str
) -> CommandResult:
    """Call the command with exactly this environment.

    For fixtures and helpers, which cannot use `monkeypatch` and `capsys`.
    """
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for variable in set(os.environ) - set(environment):
            patch.delenv(variable)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            run(command)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return CommandResult(code, out.getvalue(), err.getvalue())


def bare_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
