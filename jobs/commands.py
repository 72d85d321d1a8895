"""Run `fraudops` commands as a person in a terminal does, for the demo.

Each command is shown before it runs, its output is passed on, and it is stopped on Ctrl-C.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.text import Text

from fraudops.errors import FraudopsError
from jobs.runner import output

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STOP_SECONDS = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandFailedError(FraudopsError):
    """A command ended with an exit code other than 0, after it printed its own error."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"`{command}` ended with code {code}")
        self.exit_code = code


@dataclass(frozen=True)
class CommandResult:
    """A command that succeeded: the command line, its standard output and its duration.

    `printed` is the output without colours.
    """

    command: str
    printed: str
    seconds: float


@dataclass
class Terminal:
    """A terminal that runs `fraudops` commands and keeps their results.

    `suffix`, such as `--state FOLDER`, is added to every command that does not have it.
    """

    interrupts: "Interrupts"
    suffix: Sequence[str] = ()
    results: list[CommandResult] = field(default_factory=list)

    def run(self, *words: str) -> CommandResult:
        """Run `fraudops WORDS`, pass its output on and return the result.

        Raises CommandFailedError. Ctrl-C stops the command and raises KeyboardInterrupt.
        """
        arguments = [*words, *([] if self._has_suffix(words) else self.suffix)]
        command = shlex.join(["fraudops", *arguments])
        output.print(Text(f"\n$ {command}", "bold"))
        started = time.monotonic()
        code, printed = self._run(arguments)
        seconds = time.monotonic() - started
        if code:
            raise CommandFailedError(command, code)
        output.print(Text(f"({seconds:.1f} s)", "dim"))
        self.results.append(CommandResult(command, printed, seconds))
        return self.results[-1]

    def run_silently(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `fraudops WORDS` without showing it, and accept every exit code."""
        return subprocess.run(
            [*console_script(), *words, *self.suffix],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )

    def _has_suffix(self, words: Sequence[str]) -> bool:
        return bool(self.suffix) and self.suffix[0] in words

    def _run(self, arguments: Sequence[str]) -> tuple[int, str]:
        """Run one command and return its exit code and its output without colours."""
        command = [*console_script(), *arguments]
        # An interrupt between the start of the process and the assignment of `process` would
        # leave a process that no code below can stop.
        self.interrupts.hold()
        process = None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(),
                # In its own session the command does not get the terminal's Ctrl-C. This program
                # gets it and then stops the command and all its children.
                start_new_session=True,
            )
            self.interrupts.release()
            printed = "".join(_pass_on(process.stdout or ()))
            return process.wait(), printed
        except BaseException:
            if process is not None:
                _stop(process)
            raise
        finally:
            self.interrupts.release()


def _pass_on(lines: Iterable[str]) -> Iterator[str]:
    """Print each line as it arrives and yield it without colours."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        yield COLOURS.sub("", line)


def console_script() -> list[str]:
    """Return the command of the `fraudops` script next to this Python, else of the one on PATH."""
    neighbour = Path(sys.executable).with_name("fraudops")
    script = str(neighbour) if neighbour.exists() else shutil.which("fraudops")
    return [script] if script else [sys.executable, "-c", "from jobs.cli import main; main()"]


def _environment() -> dict[str, str]:
    """Return this environment, with the terminal's colours and width for the command's output."""
    # Without bytecode caches every command would take three times as long to import.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    if output.is_terminal:
        # The command writes to a pipe, so it cannot detect these itself.
        environment |= {"FORCE_COLOR": "1", "COLUMNS": str(output.width)}
    return environment


def _stop(process: "subprocess.Popen[str]") -> None:
    """Interrupt the command's process group, and kill it if it does not end in time."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


class Interrupts:
    """Handler that turns Ctrl-C, SIGTERM and SIGHUP into one KeyboardInterrupt.

    All later signals are ignored, so that they cannot interrupt the clean-up.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            self.ignore()
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Ignore all signals from now on."""
        self._pending = False
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def hold(self) -> None:
        """Delay an interrupt until `release` is called."""
        self._held = True

    def release(self) -> None:
        """Raise the delayed interrupt, if there is one."""
        self._held = False
        if self._pending:
            self._handle(signal.SIGINT, None)
