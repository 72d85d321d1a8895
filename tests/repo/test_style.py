"""The measurements of `make style`, and each limit when it is broken."""

import subprocess
import sys

from tests.repo import style

SMALL = '''"""A module."""

# A reason.
NUMBER = 1  # type: ignore[x]  # noqa: E1
TEXT = "# no comment"


class Pod:
    def start(self) -> None:
        """Start.

        A much longer line that is not the first one.
        """
'''


def test_a_small_source_is_measured() -> None:
    figures = style.measure([("a.py", SMALL)])
    assert (figures.files, figures.functions) == ([13], [5])
    assert max(figures.lines) == len("        A much longer line that is not the first one.")
    assert (figures.docstrings, figures.documentable) == ([9, 6], 3)
    # Two comments on one line are one token.
    assert (figures.comments, figures.type_ignores, figures.noqas) == (2, 1, 1)
    assert figures.classes == {"Pod": ["a.py:8"]}
    assert figures.broken() == []


def test_a_quantile_is_one_of_the_values() -> None:
    assert style.quantile([], 0.5) == 0
    assert style.quantile([3, 1, 2], 0.5) == 2
    assert style.quantile(range(100), 0.99) == 99


def test_each_limit_is_named_when_it_is_broken() -> None:
    long_line = f"X = {'1' * 100}\n"
    long_docstring = f'"""{"a" * 91}"""\n'
    long_file = "x = 1\n" * 251
    long_function = "def f() -> None:\n" + "    x = 1\n" * 22
    for source, name in (
        (long_line, "line length p99"),
        (long_docstring, "docstring first line p90"),
        (long_file, "file p90"),
        (long_function, "function p90"),
    ):
        (sentence,) = style.measure([("a.py", source)]).broken()
        assert sentence.startswith(f"{name} is ")


def test_a_class_name_in_two_modules_is_named_with_both_places() -> None:
    (sentence,) = style.measure([("a.py", SMALL), ("b.py", SMALL)]).broken()
    assert sentence == "class Pod is defined more than once: a.py:8, b.py:8"


def test_the_command_prints_the_table_and_its_exit_code_says_whether_a_limit_is_broken() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.repo.style"],
        cwd=style.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "comments per 100 lines" in done.stdout
    assert (done.returncode == 1) == ("style: " in done.stderr), done.stderr
