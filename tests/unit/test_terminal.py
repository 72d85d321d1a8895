"""Tables at the widths of real terminals: no word is cut."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fraudops.terminal import print_table
from jobs import models
from services.supervisor import display

VERSION = {
    "version": "12",
    "created_at": "2026-11-29T10:43:23Z",
    "digest": "c036a313e45c" + "0" * 52,
    "verdict": "passed",
    "aliases": ["champion", "production"],
    "serving": True,
    "back": None,
    "deleted": False,
}
PART: dict[str, Any] = {
    "state": "gave up",
    "url": "postgresql://fraudops@127.0.0.1:5432/fraudops",
    "pids": [1234567, 1234568],
    "restarts": 3,
}


def printed(table: Table, width: int) -> str:
    file = io.StringIO()
    print_table(Console(file=file, width=width, highlight=False, soft_wrap=True), table)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_word_of_a_table_is_cut_at_any_width(width: int) -> None:
    versions = printed(models._table([VERSION, VERSION]), width)
    status = printed(display.status_table({"postgresql": PART, "shipper": PART}), width)
    for text, count in (("c036a313e45c", 2), ("production", 2), ("10:43:23", 2), ("passed", 2)):
        assert versions.count(text) == count, versions
    for text in (PART["url"], "gave up", "1234567", "1234568", "postgresql"):
        assert text in status, status
    assert "…" not in versions + status


def test_a_table_that_is_too_wide_has_one_line_a_cell() -> None:
    assert printed(models._table([VERSION, VERSION | {"aliases": []}]), 40).splitlines()[:7] == [
        "version: 12",
        "created: 2026-11-29 10:43:23",
        "digest: c036a313e45c",
        "verdict: passed",
        "aliases: champion, production",
        "serves: yes",
        "",
    ]


def test_a_table_without_a_heading_has_one_line_a_row() -> None:
    table = Table(show_header=False)
    table.add_row("[bold]models[/]", "http://127.0.0.1:5000/a-long-path", "MLflow")
    assert printed(table, 40) == "models: http://127.0.0.1:5000/a-long-path MLflow\n"
