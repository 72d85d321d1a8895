"""The changes that `make mutants` makes, and its list of accepted survivors."""

import tomllib
from pathlib import Path

import pytest

from tests.mutants import table
from tests.mutants.__main__ import Plan, every_mutant
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.plugins import ROOT
from tests.mutants.server import Baseline, Verdict
from tests.mutants.table import Survivors

HEAD = "def f(a, b, c):\n    "


def changes(body: str, head: str = HEAD) -> dict[str, str]:
    """Return the changed bodies by the names of the changes."""
    source = (head + body).encode()
    return {
        mutant.change: mutant.apply(source).decode().removeprefix(head)
        for mutant in mutants_of("a.py", source, ["say"])
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("if a:\n        b()", {"negate the condition": "if (not a):\n        b()"}),
        ("c(a == b)", {"== -> !=": "c((a != b))"}),
        ("c(a < b)", {"< -> <=": "c((a <= b))", "< -> >=": "c((a >= b))"}),
        ("c(a and b)", {"and -> or": "c((a or b))", "drop `a`": "c((b))", "drop `b`": "c((a))"}),
        ("c(not a)", {"drop not": "c((a))"}),
        ("c(a - b)", {"- -> +": "c((a + b))"}),
        ("c(max(a, b))", {"max -> min": "c(min(a, b))"}),
        ("c(1)", {"1 -> 2": "c(2)", "1 -> 0": "c(0)", "drop the statement": "pass"}),
        ("c(0.5)", {"0.5 -> 1.5": "c(1.5)"}),
        ("c(a, b=True)", {"True -> False": "c(a, b=False)", "drop b=": "c(a)"}),
        ("c('x')", {"'x' -> ''": "c('')"}),
        ("c(f'{a}/{b}')", {"f'{a}/{b}' -> ''": "c('')"}),
        ("c(a, b)", {"argument 1 -> None": "c(None, b)", "argument 2 -> None": "c(a, None)"}),
        ("a.b = c", {"drop the statement": "pass"}),
        ("a += c", {"drop the statement": "pass"}),
        ("a = c", {"drop the statement": "pass"}),
        ("raise a", {"drop the statement": "pass"}),
        ("return a", {"return None": "return None"}),
        ("while a:\n        break", {"break -> continue": "while a:\n        continue"}),
        ("with a:\n        b()", {"drop the with": "if True:\n        b()"}),
        (
            "try:\n        a()\n    except (b, c):\n        pass",
            {"drop b": "try:\n        a()\n    except (c,):\n        pass"},
        ),
        (
            "match a:\n        case 1:\n            b()",
            {"drop the case": "match a:\n        case 1 if False:\n            b()"},
        ),
    ],
)
def test_each_operator_changes_what_it_names(body: str, expected: dict[str, str]) -> None:
    assert expected.items() <= changes(body).items()


def test_an_awaited_call_is_dropped() -> None:
    found = changes("await a()", "async def f(a):\n    ")
    assert found == {"drop the statement": "pass"}


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "import os",
        "def f(a: 'X') -> 'Y': ...",
        "class C(Protocol):\n    def f(self) -> bool:\n        return True",
        "class C:\n    __slots__ = ('a', 'b')",
        "@dataclass(frozen=True)\nclass C:\n    a: int",
        "Kind = Literal['a', 'b']",
        "def f(say, a):\n    say('x', a + 1)",
        "def f():\n    b = 'two words'",
        "def f(a, b):\n    assert a == b",
    ],
)
def test_what_no_test_can_see_stays(source: str) -> None:
    assert changes(source, "") == {}


def test_a_message_stays_and_its_raise_is_dropped() -> None:
    assert changes("raise RefusedError('x', a + 1)") == {"drop the statement": "pass"}


def test_two_equal_changes_of_equal_lines_have_two_names() -> None:
    assert {"negate the condition", "negate the condition (2)"} <= changes(
        "if a:\n        b()\n    if a:\n        c()"
    ).keys()


def test_a_mutant_keeps_its_id_when_its_line_moves() -> None:
    first, moved = (
        mutants_of("a.py", text.encode(), []) for text in ("a = 1\n", "# Above.\n\na = 1\n")
    )
    assert [mutant.id for mutant in first] == [mutant.id for mutant in moved]


def test_a_mutant_is_asked_of_the_tests_that_call_its_function() -> None:
    first, second, outside = (
        Mutant("a.py", "", function, 1, "", "", 0, 0, "") for function in ("f", "g", "")
    )
    baseline = Baseline(
        {"slow": 2.0, "quick": 1.0},
        {"": frozenset(), "slow": frozenset({("a.py", "f")}), "quick": frozenset({("a.py", "f")})},
    )
    assert baseline.tests_for(first) == ["quick", "slow"]
    assert baseline.tests_for(first, "slow") == ["slow", "quick"]
    assert baseline.tests_for(second) == []
    assert baseline.tests_for(outside) == ["quick", "slow"]


def test_the_accepted_survivors_name_mutants_and_give_reasons() -> None:
    plan = Plan(**tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"])
    assert Survivors.read(every_mutant(plan)).stale == ()


MODULE = b"a = 1\nb = 2\n"
ENTRY = """[[survivor]]
module = "a.py"
where = ""
line = "a = 1"
change = "1 -> 2"
reason = "REASON"
"""


@pytest.fixture
def mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mutant]:
    """Four mutants, and a list that accepts the first."""
    monkeypatch.setattr(table, "ACCEPTED", tmp_path / "accepted.toml")
    monkeypatch.setattr(table, "OPEN", tmp_path / "open.toml")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    table.ACCEPTED.write_text(ENTRY)
    return mutants_of("a.py", MODULE, [])


def problems(mutants: list[Mutant], *endings: str, least_percent: float = 0.0) -> list[str]:
    """Return the problems of a run in which the mutants end like this."""
    survivors = Survivors.read(mutants)
    verdicts = {mutant.id: Verdict(ending) for mutant, ending in zip(mutants, endings, strict=True)}
    total = survivors.rows(mutants, verdicts)[-1]
    return survivors.problems(mutants, verdicts, total, least_percent)


def test_an_accepted_survivor_passes(mutants: list[Mutant]) -> None:
    assert problems(mutants, "survived", "assertion", "error", "time") == []


def test_too_few_killed_mutants_fail(mutants: list[Mutant]) -> None:
    (problem,) = problems(mutants, "survived", "error", "time", "import", least_percent=95.0)
    assert problem == "75.0 % are killed, 95 % must be"


def test_an_open_survivor_fails_and_its_entry_is_written(mutants: list[Mutant]) -> None:
    for ending in ("survived", "no test"):
        (problem,) = problems(mutants, "survived", ending, "error", "error")
        assert problem.startswith("1 survivors are open, see open.toml")
    (entry,) = tomllib.loads(table.OPEN.read_text())["survivor"]
    assert (entry["line"], entry["change"], entry["reason"]) == ("a = 1", "1 -> 0", "")


def test_an_accepted_mutant_that_a_test_kills_fails(mutants: list[Mutant]) -> None:
    (problem,) = problems(mutants, "assertion", "error", "error", "error")
    assert problem == f"{mutants[0].id} is accepted, but a test kills it"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (ENTRY.replace("a = 1", "c = 1"), "accepted.toml: no mutant is a.py |  | c = 1 | 1 -> 2"),
        (ENTRY.replace("REASON", ""), "accepted.toml: no reason is given for a.py |"),
    ],
)
def test_an_entry_without_a_mutant_or_a_reason_fails(
    entry: str, problem: str, mutants: list[Mutant]
) -> None:
    table.ACCEPTED.write_text(entry)
    found = problems(mutants, "assertion", "error", "error", "error")
    assert [one for one in found if one.startswith(problem)]
