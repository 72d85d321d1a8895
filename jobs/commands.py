"""Runs the console script as a person at a terminal would: shows what is typed, passes on what it
prints, and stops it when asked to stop.
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
    """A command ended with another code than 0; its own error is on the terminal already."""

    def __init__(self, typed: str, code: int) -> None:
        super().__init__(f"`{typed}` ended with code {code}")
        self.exit_code = code


@dataclass(frozen=True)
class Done:
    """A command that has ended well: what was typed, what it printed (without colours), and how
    long it took.
    """

    typed: str
    printed: str
    seconds: float


@dataclass
class Terminal:
    """`suffix` (such as `--state FOLDER`) is typed after every command that does not have it yet."""

    interrupts: "Interrupts"
    suffix: Sequence[str] = ()
    done: list[Done] = field(default_factory=list)

    def type(self, *words: str) -> Done:
        """Runs `fraudops WORDS` to its end.

        Raises CommandFailedError; an interrupt ends the command first.
        """
        arguments = [*words, *([] if self._has_suffix(words) else self.suffix)]
        typed = shlex.join(["fraudops", *arguments])
        output.print(Text(f"\n$ {typed}", "bold"))
        started = time.monotonic()
        code, printed = self._run(arguments)
        seconds = time.monotonic() - started
        if code:
            raise CommandFailedError(typed, code)
        output.print(Text(f"({seconds:.1f} s)", "dim"))
        self.done.append(Done(typed, printed, seconds))
        return self.done[-1]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `fraudops WORDS` unseen, whatever its code."""
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
        command = [*console_script(), *arguments]
        # A session of its own: Ctrl-C reaches this program alone, which then ends the command in
        # order.
        self.interrupts.hold()
        process = None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(),
                start_new_session=True,
            )
            self.interrupts.release()
            printed = "".join(_pass_on(process.stdout or ()))
            return process.wait(), printed
        except BaseException:
            if process is not None:
                _end(process)
            raise
        finally:
            self.interrupts.release()


def _pass_on(lines: Iterable[str]) -> Iterator[str]:
    """Prints each line as it comes and yields it without colours."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        yield COLOURS.sub("", line)


def console_script() -> list[str]:
    """The `fraudops` beside this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("fraudops")
    found = str(beside) if beside.exists() else shutil.which("fraudops")
    return [found] if found else [sys.executable, "-c", "from jobs.cli import main; main()"]


def _environment() -> dict[str, str]:
    """This one, with what a command cannot see through a pipe: colours and width.

    Bytecode is kept, or every start would import three times as long.
    """
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    if output.is_terminal:
        environment |= {"FORCE_COLOR": "1", "COLUMNS": str(output.width)}
    return environment


def _end(process: "subprocess.Popen[str]") -> None:
    """Asks the command's whole session to end, then insists."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP as one KeyboardInterrupt; after the first one nothing interrupts
    the ending.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        for number in SIGNALS:
            signal.signal(number, self._arrived)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            self.ignore()
            raise KeyboardInterrupt

    def ignore(self) -> None:
        self._pending = False
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def hold(self) -> None:
        """Until `release` an interrupt waits: what is being started must be known before it can be
        ended.
        """
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._pending:
            self._arrived(signal.SIGINT, None)
