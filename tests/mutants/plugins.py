"""What a child adds to pytest: the changed module, the order of the tests, two measurements."""

import time
from collections.abc import Generator, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FrameType

import pytest

from tests.mutants.operators import Mutant

ROOT = Path(__file__).parents[2]
# The path of a module, and the name of a function in it.
Function = tuple[str, str]


class ModuleFinder:
    """Finds the changed module before its file is found."""

    def __init__(self, mutant: Mutant) -> None:
        self.path = ROOT / mutant.module
        self.source = mutant.apply(self.path.read_bytes())
        self.name = mutant.module.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self.name:
            return None
        return spec_from_file_location(name, self.path, loader=self.loader(name))

    def loader(self, name: str) -> SourceFileLoader:
        code = compile(self.source, self.path, "exec")

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return code

        return Loader(name, str(self.path))


class Order:
    """Runs the chosen tests in the given order, and keeps the first failure."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}
        self.report: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        yield
        items[:] = [item for item in items if item.nodeid in self.places]
        items.sort(key=lambda item: self.places[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo and not self.report:
            asserted = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
            self.report = {
                "ending": "assertion" if asserted else "error",
                "test": item.nodeid,
                "text": f"{call.excinfo.typename}: {call.excinfo.value}"[:300],
            }
        return report


class Stopwatch:
    """Measures every test in seconds of processor time.

    A limit on these holds on a busy machine too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began = time.process_time()
        result = yield
        self.seconds[item.nodeid] = round(time.process_time() - began, 3)
        return result


class Tracer:
    """Records the functions of the modules that every test calls."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.paths = {str(ROOT / module): module for module in modules}
        self.calls: dict[str, set[Function]] = {}
        self.record("")

    def record(self, place: str) -> None:
        self.now = self.calls.setdefault(place, set())

    def trace(self, frame: FrameType, event: str, _: object) -> None:
        if (module := self.paths.get(frame.f_code.co_filename)) is not None:
            self.now.add((module, frame.f_code.co_qualname.split(".<locals>")[0]))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        # A module's fixture runs in the setup of one test, and all tests of the module need it.
        self.record(item.nodeid.split("::")[0])
        yield
        self.record(item.nodeid)
