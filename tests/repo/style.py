"""Style figures of the product's source: `make style`.

The figures describe `fraudops`, `services` and `jobs`. The tests appear for comparison only.
The command exits with 1 when a limit is broken and names the limit. It needs no installation.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("fraudops", "services", "jobs")
LONG_FUNCTION = 40
LIMITS = {
    "line length p99": 100,
    "docstring first line p90": 90,
    "file p90": 250,
    "function p90": 22,
}
# Class names that two modules may define, each with the reason why both mean the same thing.
SAME_THING: dict[str, str] = {}


@dataclass(frozen=True)
class StyleFigures:
    """The sizes of a set of Python files; lines in characters, the other sizes in lines."""

    files: list[int] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    docstrings: list[int] = field(default_factory=list)
    documentable: int = 0
    comments: int = 0
    type_ignores: int = 0
    noqas: int = 0
    classes: dict[str, list[str]] = field(default_factory=dict)

    def limited(self) -> dict[str, int]:
        """Return the figures that have a limit, by their names in LIMITS."""
        return {
            "line length p99": quantile(self.lines, 0.99),
            "docstring first line p90": quantile(self.docstrings, 0.9),
            "file p90": quantile(self.files, 0.9),
            "function p90": quantile(self.functions, 0.9),
        }

    def broken(self) -> list[str]:
        """Return one sentence for each broken limit."""
        problems = [
            f"{name} is {value}, the limit is {LIMITS[name]}"
            for name, value in self.limited().items()
            if value > LIMITS[name]
        ]
        problems += [
            f"class {name} is defined more than once: {', '.join(places)}"
            for name, places in sorted(self.classes.items())
            if len(places) > 1 and name not in SAME_THING
        ]
        return problems


def quantile(values: Sequence[int], share: float) -> int:
    """Return the value at `share` (0 to 1) of the sorted values; 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0


def measure(sources: Iterable[tuple[str, str]]) -> StyleFigures:
    """Measure Python sources, given as pairs of a file's name and its text."""
    files, functions, lines, docstrings = list[int](), list[int](), list[int](), list[int]()
    documentable, comments = 0, list[str]()
    classes: dict[str, list[str]] = {}
    for name, text in sources:
        split = text.splitlines()
        files.append(len(split))
        # Blank lines would halve the median.
        lines += [len(line) for line in split if line.strip()]
        comments += comments_of(text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
            elif isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(f"{name}:{node.lineno}")
            elif not isinstance(node, ast.Module):
                continue
            documentable += 1
            if docstring := ast.get_docstring(node):
                docstrings.append(len(docstring.splitlines()[0]))
    return StyleFigures(
        files,
        functions,
        lines,
        docstrings,
        documentable,
        len(comments),
        sum("type: ignore" in comment for comment in comments),
        sum("noqa" in comment for comment in comments),
        classes,
    )


def comments_of(text: str) -> Iterator[str]:
    """Return every comment, also at the end of a line. A `#` in a string is not a comment."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def sources_of(*folders: str) -> Iterator[tuple[str, str]]:
    """The Python files below the folders of the repository."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def rows(product: StyleFigures, tests: StyleFigures) -> Iterator[tuple[str, str]]:
    """The table: a title and a figure for each row."""
    yield from general_rows(product)
    yield from docstring_rows(product)
    yield "type: ignore / noqa", f"{product.type_ignores} / {product.noqas}"
    size, test_size = sum(product.files), sum(tests.files)
    yield (
        "tests: kLOC, and lines per line of source",
        (f"{test_size / 1000:.1f}, {test_size / size:.2f}"),
    )
    yield "tests: file p50 / p90", quantiles(tests.files, 0.5, 0.9)
    yield "tests: function p50 / p90", quantiles(tests.functions, 0.5, 0.9)


def general_rows(figures: StyleFigures) -> Iterator[tuple[str, str]]:
    files, functions, lines = figures.files, figures.functions, figures.lines
    yield "source files / kLOC", f"{len(files)} / {sum(files) / 1000:.1f}"
    yield "file p50 / p90 / max", f"{quantiles(files, 0.5, 0.9)} / {max(files)}"
    yield "function p50 / p90 / p99", quantiles(functions, 0.5, 0.9, 0.99)
    long = sum(length > LONG_FUNCTION for length in functions)
    yield f"functions over {LONG_FUNCTION} lines", f"{long} of {len(functions)}"
    yield "line length p50 / p90 / p99", quantiles(lines, 0.5, 0.9, 0.99)
    over = [f"{sum(length > limit for length in lines) / len(lines):.1%}" for limit in (100, 120)]
    yield "lines over 100 / over 120", " / ".join(over)


def docstring_rows(figures: StyleFigures) -> Iterator[tuple[str, str]]:
    share = len(figures.docstrings) / figures.documentable
    yield "docstrings: share of modules, classes, functions", f"{share:.0%}"
    yield "docstring first line p50 / p90", quantiles(figures.docstrings, 0.5, 0.9)
    yield "comments per 100 lines", f"{figures.comments / sum(figures.files) * 100:.1f}"
    twice = [name for name, places in sorted(figures.classes.items()) if len(places) > 1]
    yield "class names defined twice", ", ".join(twice) or "none"


def quantiles(values: Sequence[int], *shares: float) -> str:
    return " / ".join(str(quantile(values, share)) for share in shares)


def main() -> int:
    product, tests = measure(sources_of(*PRODUCT)), measure(sources_of("tests"))
    table = list(rows(product, tests))
    width = max(len(title) for title, _ in table)
    for title, figure in table:
        print(f"{title:<{width}}  {figure}")
    for sentence in product.broken():
        sys.stderr.write(f"style: {sentence}\n")
    return 1 if product.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
