"""Run the mutants of the decisions, and say which of them no test kills: `make mutants`."""

import argparse
import difflib
import fnmatch
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.plugins import ROOT
from tests.mutants.server import Baseline, Server, Verdict
from tests.mutants.table import Survivors, print_table, write_figures

RESULTS = ROOT / ".mutants" / "results.jsonl"


@dataclass(frozen=True)
class Plan:
    """The section `tool.mutants` of pyproject.toml."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    messages: tuple[str, ...]
    environment: dict[str, str]
    least_percent: float
    seed: int

    def paths(self) -> list[str]:
        """Return the modules. Raises SystemExit for a pattern that finds none."""
        found = list[str]()
        for pattern in self.modules:
            paths = sorted(ROOT.glob(pattern))
            if not paths:
                raise SystemExit(f"mutants: pyproject.toml: no module is named {pattern}")
            found += [str(path.relative_to(ROOT)) for path in paths]
        return list(dict.fromkeys(found))

    def hash_of_tests(self, killer: str = "") -> str:
        """Return what a verdict depends on besides its module.

        A mutant that survives runs again after a change of any test. One that a test has killed
        runs again only after a change of the file of this test. Both run again after a change of
        what tests share, or of the environment. A change of another module does not count: delete
        the results after a change of many.
        """
        files = {ROOT / test.split("::")[0] for test in ([killer] if killer else self.tests)}
        # The other folders, such as tests/cluster, have a conftest.py that these tests do not use.
        folders = {folder for test in files for folder in test.relative_to(ROOT).parents}
        files |= {ROOT / folder / "conftest.py" for folder in folders}
        files |= set((ROOT / "tests/support").rglob("*.py"))
        digest = hashlib.sha256(json.dumps(self.environment, sort_keys=True).encode())
        for path in sorted(file for file in files if file.exists()):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        return digest.hexdigest()[:16]


class Results:
    """The verdicts of this run and of earlier ones, one JSON line each."""

    def __init__(self, plan: Plan, modules: Iterable[str]) -> None:
        self.tests = cache(plan.hash_of_tests)
        self.sources = {
            module: hashlib.sha256((ROOT / module).read_bytes()).hexdigest()[:16]
            for module in modules
        }
        self.verdicts: dict[str, Verdict] = {}
        # The test that killed a mutant before: it is the first that runs again.
        self.killers: dict[str, str] = {}
        # A line that an interrupted run has not finished is no verdict.
        lines = RESULTS.read_bytes().splitlines(keepends=True) if RESULTS.exists() else []
        for line in lines:
            if line.endswith(b"\n"):
                self._take(json.loads(line))

    def _take(self, line: dict[str, str]) -> None:
        hashes = line.pop("source"), line.pop("tests")
        identity, module = line.pop("id"), line.pop("module")
        verdict = Verdict(**line)  # type: ignore[arg-type]
        if verdict.killed:
            self.killers[identity] = verdict.test
        if hashes == (self.sources.get(module), self.tests(_killer(verdict))):
            self.verdicts[identity] = verdict

    def add(self, mutant: Mutant, verdict: Verdict) -> None:
        self.verdicts[mutant.id] = verdict
        identity = {"id": mutant.id, "module": mutant.module}
        tests = self.tests(_killer(verdict))
        hashes = {"source": self.sources[mutant.module], "tests": tests}
        with RESULTS.open("a") as file:
            file.write(json.dumps(identity | hashes | asdict(verdict)) + "\n")


def _killer(verdict: Verdict) -> str:
    return verdict.test.split("::")[0] if verdict.killed else ""


def run(plan: Plan, mutants: Sequence[Mutant], results: Results, processes: int) -> None:
    """Run the mutants that have no verdict yet, `processes` side by side."""
    waiting = [mutant for mutant in mutants if mutant.id not in results.verdicts]
    if not waiting:
        return
    print(f"{len(waiting)} mutants to run; first the tests run without a mutant", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        server = Server(plan.paths(), plan.tests, Path(folder))
        server.preload()
        baseline = server.measure()
        began = time.monotonic()
        try:
            for done, (mutant, verdict) in enumerate(
                verdicts(server, baseline, waiting, results.killers, processes), 1
            ):
                results.add(mutant, verdict)
                if not verdict.killed:
                    print(f"survives ({verdict.ending}): {described(mutant)}", flush=True)
                if done % 50 == 0:
                    minutes = (time.monotonic() - began) / 60
                    print(f"{done} of {len(waiting)}, {done / minutes:.0f} a minute", flush=True)
        finally:
            server.stop()


def verdicts(
    server: Server,
    baseline: Baseline,
    mutants: Iterable[Mutant],
    killers: Mapping[str, str],
    processes: int,
) -> Iterator[tuple[Mutant, Verdict]]:
    """Yield each mutant with its verdict, in the order in which the children end."""
    for mutant in mutants:
        tests = baseline.tests_for(mutant, killers.get(mutant.id, ""))
        if not tests:
            yield mutant, Verdict("no test")
            continue
        if len(server.running) == processes:
            yield server.wait()
        server.start(mutant, tests, sum(baseline.seconds[test] for test in tests))
    while server.running:
        yield server.wait()


def every_mutant(plan: Plan) -> list[Mutant]:
    return [
        mutant
        for path in plan.paths()
        for mutant in mutants_of(path, (ROOT / path).read_bytes(), plan.messages)
    ]


def described(mutant: Mutant) -> str:
    return f"{mutant.id} {mutant.module}:{mutant.number} {mutant.change}    {mutant.line}"


def difference(mutant: Mutant) -> str:
    """The mutant as a patch for `git apply`."""
    source = (ROOT / mutant.module).read_bytes()
    before, after = (
        text.decode().splitlines(keepends=True) for text in (source, mutant.apply(source))
    )
    path = mutant.module
    return "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, help="run only N mutants, always the same ones")
    parser.add_argument("--module", default="*", help="run only the modules with such a path")
    parser.add_argument("--diff", metavar="ID", help="print one mutant as a patch, and run none")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def main() -> int:
    chosen = options()
    # The tests must not measure the figures of `make proof`.
    proof = os.environ.pop("PROOF", None)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    plan = Plan(**settings)
    os.environ.update(plan.environment)
    every = every_mutant(plan)
    survivors = Survivors.read(every)
    mutants = [mutant for mutant in every if fnmatch.fnmatch(mutant.module, chosen.module)]
    if chosen.diff:
        sys.stdout.writelines(difference(one) for one in mutants if one.id == chosen.diff)
        return 0
    if chosen.sample:
        mutants = random.Random(plan.seed).sample(mutants, min(chosen.sample, len(mutants)))
    RESULTS.parent.mkdir(exist_ok=True)
    results = Results(plan, plan.paths())
    # An interrupted run ends its children and leaves its verdicts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("mutants: interrupted"))
    run(plan, mutants, results, chosen.processes)
    rows = survivors.rows(mutants, results.verdicts)
    print_table(rows)
    if proof == "1" and len(mutants) == len(every):
        write_figures(rows, survivors)
    least = 0.0 if chosen.sample else plan.least_percent
    problems = survivors.problems(mutants, results.verdicts, rows[-1], least)
    for problem in problems:
        print(f"mutants: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
