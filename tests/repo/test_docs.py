"""The files, links, targets, settings and figures that the pages name exist.

tests/machine and tests/cluster run the commands of the pages.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.build import build
from fraudops.settings import known_variables
from tests.support.documents import (
    PAGES,
    README,
    RESULTS,
    ROOT,
    anchors,
    blocks,
    commands,
    links,
    prose,
)

GENERATED = {ROOT / "docs/cli.md", ROOT / "docs/settings.md"}
TYPED = re.compile(r"^(curl|fraudops|helm|kubectl|make|openssl) ", re.MULTILINE)
OTHER_HOST = re.compile(
    r"<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=[\"']?(?:https?:)?//[^>]*>"
)
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@named
def test_every_link_of_a_page_leads_to_a_file_and_an_anchor(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@named
def test_a_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= targets
    assert set(re.findall(r"\bFRAUDOPS_[A-Z_]*[A-Z]\b", text)) <= known_variables()
    files = re.findall(
        r"(?<![.\w/])((?:benchmarks|charts|docs|fraudops|jobs|k8s|services|tests)/[\w./-]+\.\w+)",
        prose(page),
    )
    assert [name for name in files if not (ROOT / name).exists()] == []


@named
def test_a_command_that_no_test_runs_has_a_reason(page: Path) -> None:
    for block in (block for block in blocks() if block.page == page):
        assert block.language in ("sh", "console", "text", "yaml"), block.text
        if page not in GENERATED and block.language == "text" and TYPED.search(block.text):
            assert block.after.lstrip().startswith("("), block.text


def test_the_commands_of_the_pages_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    machine, cluster = commands("sh"), commands("console")
    total = sum(len(links(page)) for page in PAGES)
    with capsys.disabled():
        print(
            f"\n{len(PAGES)} pages: {len(machine)} commands run on one machine,"
            f" {len(cluster)} on a cluster; {total} links checked"
        )
    assert len(machine) > 20
    assert len(cluster) > 8


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@named
def test_lines_of_prose_are_narrow(page: Path) -> None:
    text = re.sub(r"<!-- made by .*?<!-- /made -->", "", prose(page), flags=re.DOTALL)
    wide = [line for line in text.splitlines() if len(line) > 120]
    assert page in GENERATED or [line for line in wide if line[0] not in "|!"] == []


def test_results_that_a_page_links_to_name_their_commit() -> None:
    for result in RESULTS:
        assert json.loads(result.with_suffix(".json").read_text())["commit"]


def figures() -> Iterator[str]:
    """Return the figures of the performance page, of promotion's figures, and of the README."""
    texts = (
        prose(ROOT / "docs/performance.md"),
        prose(ROOT / "docs/promotion.md").partition("## Figures")[2],
        prose(README).partition("**Performance:**")[2].partition("##")[0],
    )
    for text in texts:
        yield from NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", text))


def test_every_figure_is_a_recorded_result() -> None:
    """A figure may be rounded as the page rounds it."""
    recorded = {
        float(number.replace(",", ""))
        for result in RESULTS
        for number in NUMBER.findall(result.read_text())
    }
    assert [number for number in figures() if not any(rounds(x, number) for x in recorded)] == []


def rounds(recorded: float, shown: str) -> bool:
    """Return whether the recorded number, rounded to the shown digits, is the shown one."""
    digits = shown.replace(",", "")
    decimals = len(digits.partition(".")[2])
    if not decimals:
        # A round number such as 70,000 shows its leading digits only.
        decimals = -(len(digits) - len(digits.rstrip("0"))) if digits.strip("0") else 0
    half = 0.5 * 10.0**-decimals
    return math.isclose(recorded, float(digits), rel_tol=0, abs_tol=half * (1 + 1e-9))


def test_the_generated_pages_are_those_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "docs/build.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    build(target)
    return target / "html"


def test_the_site_is_built_in_strict_mode_from_every_page(site: Path) -> None:
    built = list(site.rglob("*.html"))
    assert len(built) >= len(PAGES)
    assert (site / "docs/promotion.html").is_file()


def test_no_page_of_the_site_loads_anything_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert OTHER_HOST.findall(text) == [], page
        # The script of the theme fetches a renderer for such a block.
        assert 'class="mermaid"' not in text, page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text()), style


def test_the_search_of_the_site_is_its_own(site: Path) -> None:
    index = json.loads((site / "search.json").read_text())
    assert "reconciler" in json.dumps(index).lower()
    assert list(site.rglob("workers/search*.js"))


def test_a_missing_anchor_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with one broken link shows that strict mode is on."""
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text("# One\n\n[there](README.md#nowhere)\n")
    (root / "docs/mkdocs.yml").write_text("site_name: x\ndocs_dir: source\nsite_dir: html\n")
    monkeypatch.setattr("docs.build.ROOT", root)
    monkeypatch.setattr("docs.build.DOCS", root / "docs")
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "site")
