"""Printing on a terminal of any width."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Wider than any terminal: at this width rich measures the table without shrinking its columns.
WIDEST = 10_000


def one_line(text: str) -> str:
    """Return the text of another user without line ends and control characters.

    Such a text could otherwise add false lines to what a command shows, or hide others.
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def print_table(console: Console, table: Table) -> None:
    """Print a table, or one line per cell when the terminal is too narrow for its words.

    rich cuts a word that is wider than its column, and a digest that is cut is of no use.
    """
    options = console.options.update(width=WIDEST)
    if Measurement.get(console, options, table).minimum <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    for number, cells in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        if number and table.show_header:
            console.print()
        labels = [str(column.header) for column in table.columns]
        if not table.show_header:
            labels, cells = [str(cells[0])], (" ".join(str(cell) for cell in cells[1:]),)
        for label, cell in zip(labels, cells, strict=True):
            text = cell if isinstance(cell, Text) else console.render_str(str(cell or ""))
            if text.plain:
                name = console.render_str(f"{label}: " if label else "")
                console.print(Text.assemble(name, text))
