"""Progress bars on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jobs.runner import notices


def _progress(name: str, *columns: ProgressColumn, disable: bool = False) -> Progress:
    # Transient: the bar disappears at the end, so that only results stay in the terminal.
    return Progress(
        TextColumn(escape(name)),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=notices,
        transient=True,
        disable=disable,
    )


@contextmanager
def share_bar(name: str) -> Iterator[Callable[[float], None]]:
    """Show a bar and yield the function that sets the completed share, from 0 to 1."""
    with _progress(name, TaskProgressColumn()) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=min(1.0, share))


@contextmanager
def count_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar and yield the function that sets the completed number, from 0 to `total`."""
    with _progress(name, MofNCompleteColumn()) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar and yield the function that sets the bytes so far and the bytes in total."""
    with _progress(name, DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass
class RowsBar:
    """A bar that also shows a number of rows. Outside a terminal it prints a line per tenth."""

    _bar: Progress
    _task: TaskID
    _printed_tenths: int = 0

    def update(self, done: int, total: int, rows: int, text: str) -> None:
        """Set the completed part of `total`; `text` is what a log line says about the rows."""
        self._bar.update(self._task, completed=done, total=total, rows=rows)
        if not notices.is_terminal and total and done * 10 // total > self._printed_tenths:
            self._printed_tenths = done * 10 // total
            notices.print(f"{self._printed_tenths * 10} %, {text}", markup=False)


@contextmanager
def rows_bar(name: str) -> Iterator[RowsBar]:
    """Show a RowsBar and yield it."""
    columns = (TaskProgressColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with _progress(name, *columns, disable=not notices.is_terminal) as bar:
        yield RowsBar(bar, bar.add_task(name, total=None, rows=0))
