"""A process that has imported the libraries, and forks one child for each mutant.

A fresh pytest imports for three seconds. A fork has the libraries already, and imports only the
modules of this repository, one of them changed. The change is never on the disk.
"""

import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.operators import Mutant
from tests.mutants.plugins import ROOT, Function, ModuleFinder, Order, Recorder, Stopwatch

OPTIONS = ("-q", "-x", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider")
# The libraries have been imported before pytest could rewrite them.
LIBRARIES = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
# The processor time of a child before its first test is half a second.
START_SECONDS = 3.0
# A busy machine gives a child a tenth of a core, and a test may wait.
WAITING_SECONDS = 60
MEMORY = 2 << 30
# The tests wait more than they compute, so more of them run at once than there are processors.
PARTS = 6


@dataclass(frozen=True)
class Baseline:
    """The tests without a mutant: their seconds, and the functions that each of them calls.

    The empty name of a test stands for the import.
    """

    seconds: dict[str, float]
    reached: dict[str, frozenset[Function]]

    def tests_for(self, mutant: Mutant, first: str = "") -> list[str]:
        """Return the tests that call the mutant's function: `first`, then the quickest.

        Code outside functions, and functions that the import calls, concern every test.
        """
        function = (mutant.module, mutant.function)
        everywhere = not mutant.function or function in self.reached[""]
        tests = [test for test in self.seconds if everywhere or function in self.reached[test]]
        return sorted(tests, key=lambda test: (test != first, self.seconds[test]))


@dataclass(frozen=True)
class Verdict:
    """How the tests ended; `test` is the one that failed, `text` its error.

    `ending` is `survived`, `no test` when none calls the function, or what killed the mutant:
    `assertion`, another `error` in a test, the `import`, or the limit of `time`.
    """

    ending: str
    seconds: float = 0.0
    test: str = ""
    text: str = ""

    @property
    def killed(self) -> bool:
        return self.ending not in ("survived", "no test")


class Server:
    """The forking process; `folder` takes what the children write."""

    def __init__(self, modules: Sequence[str], tests: Sequence[str], folder: Path) -> None:
        self.modules, self.tests, self.folder = modules, tests, folder
        self.running: dict[int, tuple[Mutant, float]] = {}

    def preload(self) -> None:
        """Import the libraries that the tests import, and nothing of this repository."""

        def collect() -> None:
            code = pytest.main([*OPTIONS, "--collect-only", *self.tests])
            self._write(list(_libraries()) if code == 0 else None)

        (names,) = self._ask("the tests cannot be collected", collect)
        for name in names:
            # Some libraries try an optional module, and remove it.
            with suppress(ImportError):
                importlib.import_module(name)
        # The children's garbage collections then do not copy the memory of the libraries.
        gc.collect()
        gc.freeze()

    def measure(self) -> Baseline:
        """Run the tests without a mutant, in parts. Raises SystemExit when one fails.

        The recorder slows these tests. So the measured seconds are too high, and never too low.
        """

        def measured(files: Sequence[str]) -> None:
            stopwatch, recorder = Stopwatch(), Recorder(self.modules)
            sys.meta_path.insert(0, recorder)
            code = pytest.main([*self._options(), *files], plugins=[stopwatch, recorder])
            calls = {place: sorted(functions) for place, functions in recorder.calls.items()}
            self._write((stopwatch.seconds, calls) if code == 0 else None)

        parts = [self.tests[number::PARTS] for number in range(PARTS)]
        runs = [partial(measured, files) for files in parts if files]
        seconds, reached = dict[str, float](), dict[str, frozenset[Function]]()
        for timed, recorded in self._ask("the tests fail without a mutant", *runs):
            calls = {place: frozenset(map(tuple, found)) for place, found in recorded.items()}
            none = frozenset[Function]()
            seconds |= timed
            reached |= {test: calls[test] | calls.get(test.split("::")[0], none) for test in timed}
            reached[""] = calls[""] | reached.get("", none)
        return Baseline(seconds, reached)

    def start(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> None:
        """Fork a child that runs the tests with the mutant; without they take `seconds`."""
        limit = START_SECONDS + 3 * seconds

        def run() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 6))
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
            # The alarm ends a child that waits: such a child uses no processor time.
            signal.alarm(int(10 * limit) + WAITING_SECONDS)
            sys.meta_path.insert(0, ModuleFinder(mutant))
            order = Order(tests)
            files = list(dict.fromkeys(test.split("::")[0] for test in tests))
            try:
                code = pytest.main([*self._options(), *files], plugins=[order])
            except (Warning, ExceptionGroup):
                # A test that fails may leave a socket open. Pytest raises that warning at its end,
                # or a group of several.
                if not order.report:
                    raise
                code = pytest.ExitCode.TESTS_FAILED
            self._write(order.report or _ended_with(code))

        self.running[self._fork(run)] = (mutant, time.monotonic())

    def wait(self) -> tuple[Mutant, Verdict]:
        """Wait until one of the children ends."""
        pid, status = os.wait()
        mutant, began = self.running.pop(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        seconds = round(time.monotonic() - began, 2)
        if os.WIFSIGNALED(status):
            report = _ended_by(signal.Signals(os.WTERMSIG(status)))
        elif (report := self._read(pid)) is None:
            # A fault of this program must not count as a killed mutant.
            raise SystemExit(f"{self._output(pid)}\nmutants: {mutant.id} has no verdict")
        self._forget(pid)
        return mutant, Verdict(seconds=seconds, **report)

    def stop(self) -> None:
        """End the children that still run."""
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    # -- children

    def _fork(self, run: Callable[[], None]) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            # A group of its own: what a test has started ends with it.
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(self._path(os.getpid(), "txt"), os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            run()
        finally:
            if (error := sys.exc_info()[1]) is not None:
                traceback.print_exception(error)
            sys.stderr.flush()
            # Not `sys.exit`: the code of the parent would go on in the child.
            os._exit(0)

    def _ask(self, problem: str, *runs: Callable[[], None]) -> list[Any]:
        """Return what each child wrote; they run side by side."""
        children = [self._fork(run) for run in runs]
        for pid in children:
            os.waitpid(pid, 0)
        answers = [self._read(pid) for pid in children]
        for pid, answer in zip(children, answers, strict=True):
            if answer is None:
                raise SystemExit(f"{self._output(pid)}\nmutants: {problem}")
            self._forget(pid)
        return answers

    def _output(self, pid: int) -> str:
        return self._path(pid, "txt").read_text(errors="replace")

    def _forget(self, pid: int) -> None:
        """Delete a child's files: another child may get its number."""
        self._path(pid, "txt").unlink(missing_ok=True)
        self._path(pid, "json").unlink(missing_ok=True)
        shutil.rmtree(self._path(pid, "folder"), ignore_errors=True)

    def _path(self, pid: int, kind: str) -> Path:
        return self.folder / f"{pid}.{kind}"

    def _options(self) -> list[str]:
        return [*OPTIONS, *LIBRARIES, f"--basetemp={self._path(os.getpid(), 'folder')}"]

    def _write(self, report: Any) -> None:
        self._path(os.getpid(), "json").write_text(json.dumps(report))

    def _read(self, pid: int) -> Any:
        path = self._path(pid, "json")
        return json.loads(path.read_text()) if path.exists() else None


def _ended_by(number: signal.Signals) -> dict[str, str]:
    timed = number in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL)
    return {"ending": "time" if timed else "error", "text": number.name}


def _ended_with(code: int) -> dict[str, str]:
    """What an exit code of pytest says when no test has failed. Raises RuntimeError."""
    match code:
        case pytest.ExitCode.OK:
            return {"ending": "survived"}
        # A test module, or a conftest, did not load. With `-x` pytest calls that a failed test.
        case (
            pytest.ExitCode.INTERRUPTED | pytest.ExitCode.USAGE_ERROR | pytest.ExitCode.TESTS_FAILED
        ):
            return {"ending": "import"}
        case pytest.ExitCode.INTERNAL_ERROR:
            return {"ending": "error", "text": "pytest stopped"}
    raise RuntimeError(f"pytest ended with {code}")


def _libraries() -> Iterator[str]:
    """The names of the imported modules whose files are not of this repository."""
    for name, module in sys.modules.items():
        path = Path(getattr(module, "__file__", None) or sys.prefix)
        if path.is_relative_to(sys.prefix) or not path.is_relative_to(ROOT):
            yield name


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
