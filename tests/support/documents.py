"""The Markdown pages: their commands, links and anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (
    README,
    *sorted(page for page in ROOT.glob("*.md") if page != README),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "charts/fraudops").glob("*.md")),
)
RESULTS = tuple(sorted((ROOT / "benchmarks/results").glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `after` is the rest of the page."""

    page: Path
    language: str
    text: str
    after: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            yield Block(page, match[1], match[2], text[match.end() :])


def commands(language: str) -> list[str]:
    """Return the distinct commands of one language's blocks, in the order of the pages."""
    lines = (
        re.sub(r"\s+#.*", "", line).strip()
        for block in blocks()
        if block.language == language
        for line in block.text.splitlines()
    )
    return list(dict.fromkeys(line for line in lines if line))


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Return the targets of the page's links and images, without those to other hosts."""
    unquoted = re.sub(r"`[^`\n]*`", "", prose(page))
    return [target for target in LINK.findall(unquoted) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
