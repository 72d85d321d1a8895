"""What a child adds to pytest: the changed module, the order of the tests, two measurements."""

import ast
import builtins
import time
from collections.abc import Generator, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

import pytest

from tests.mutants.operators import Mutant

ROOT = Path(__file__).parents[2]
# The path of a module, and the name of a function in it.
Function = tuple[str, str]
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
# Every function of the modules calls this name while the tests run without a mutant.
ENTERED = "__entered__"


class ModuleFinder:
    """Finds the changed module before its file is found."""

    def __init__(self, mutant: Mutant) -> None:
        self.path = ROOT / mutant.module
        self.source = mutant.apply(self.path.read_bytes())
        self.name = name_of(mutant.module)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return spec_of(name, self.path, self.source) if name == self.name else None


def name_of(module: str) -> str:
    """Return the name under which Python imports the module of this path."""
    return module.removesuffix(".py").replace("/", ".")


def spec_of(name: str, path: Path, source: bytes | ast.Module) -> ModuleSpec | None:
    """Return what Python needs to load this source as the module of this file."""
    code = compile(source, path, "exec")

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            return code

    return spec_from_file_location(name, path, loader=Loader(name, str(path)))


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


class Entries(ast.NodeTransformer):
    """Adds a statement to each function of a module: it tells the name of the outermost one."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.classes: list[str] = []
        self.function = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.classes.append(node.name)
        self.generic_visit(node)
        self.classes.pop()
        return node

    def visit_FunctionDef(self, node: AnyFunction) -> AnyFunction:
        outer, self.function = self.function, self.function or ".".join([*self.classes, node.name])
        (entry,) = ast.parse(f"{ENTERED}({self.module!r}, {self.function!r})").body
        self.generic_visit(node)
        after_docstring = int(ast.get_docstring(node) is not None)
        node.body.insert(after_docstring, entry)
        self.function = outer
        return node

    visit_AsyncFunctionDef = visit_FunctionDef


class Recorder:
    """Records the functions of the modules that every test calls.

    It changes the modules as they load. A tracer of Python would slow all other code too.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = {name_of(module): module for module in modules}
        self.calls: dict[str, set[Function]] = {}
        self.record("")
        setattr(builtins, ENTERED, self.entered)

    def record(self, place: str) -> None:
        self.now = self.calls.setdefault(place, set())

    def entered(self, module: str, function: str) -> None:
        self.now.add((module, function))

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if (module := self.modules.get(name)) is None:
            return None
        tree = Entries(module).visit(ast.parse((ROOT / module).read_bytes()))
        return spec_of(name, ROOT / module, ast.fix_missing_locations(tree))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        # A module's fixture runs in the setup of one test, and all tests of the module need it.
        self.record(item.nodeid.split("::")[0])
        yield
        self.record(item.nodeid)
