"""What people see of the parts: a line as each comes up, dies or stops, and a table of where
everything answers.
"""

import contextlib
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fraudops.state import State
from fraudops.terminal import print_table
from services.supervisor.record import ComponentRecord, Phase, Record, RunConfig

COLOURS = {"running": "green", "dead": "red", "gave up": "red", "failing": "red"}
SETTLED: tuple[Phase, ...] = ("running", "gave up")


class Announcer:
    """Prints what has changed since it was last told. `dated`: for a log file."""

    def __init__(self, console: Console, dated: bool = False) -> None:
        self._console = console
        self.dated = dated
        self._seen: dict[str, tuple[Phase, int]] = {}

    def skip(self, record: Record) -> None:
        """Takes what is so now as told."""
        self._seen = {name: (part.phase, part.restarts) for name, part in record.components.items()}

    def tell(self, record: Record) -> None:
        for name, part in record.components.items():
            if self._seen.get(name) != (part.phase, part.restarts):
                self._seen[name] = (part.phase, part.restarts)
                self._line(name, part)

    def _line(self, name: str, part: ComponentRecord) -> None:
        text = {
            "running": f"[green]●[/] {name} runs [dim]{f'after {part.seconds:.1f} s' if part.seconds else 'already'}[/]",
            "restarting": f"[yellow]●[/] {name}: {_plain(part.reason)}; starting it again",
            "gave up": f"[red]●[/] {name}: gave up: {_plain(part.reason)}",
            "stopping": f"[dim]●[/] {name} is asked to stop",
            "stopped": f"[dim]●[/] {name} has stopped",
        }.get(part.phase)
        if text:
            self.say(text)

    def show(self, rows: Table, output: Console) -> None:
        with contextlib.suppress(OSError):
            print_table(output, rows)

    def say(self, text: str) -> None:
        """A terminal that is gone stops nobody's work."""
        date = f"{datetime.now().astimezone().isoformat(timespec='seconds')} " if self.dated else ""
        with contextlib.suppress(OSError):
            self._console.print(f"{date}{text}")


def settled(record: Record) -> bool:
    """Whether every part runs, or will not."""
    return bool(record.components) and all(
        part.phase in SETTLED for part in record.components.values()
    )


def table(state: State, choices: RunConfig) -> Table:
    rows = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows.add_row("predictions", choices.inference_url, f"[dim]{choices.inference_url}/docs[/]")
    rows.add_row("models", choices.mlflow_url, "[dim]MLflow[/]")
    rows.add_row(
        "audit",
        f"postgresql://127.0.0.1:{choices.postgresql_port}/fraudops",
        "[dim]its password is in up.json[/]",
    )
    rows.add_row("state", escape(str(state.root)), "[dim]logs in logs/[/]")
    return rows


def status_table(report: dict[str, Any]) -> Table:
    """`status.report` for people."""
    rows = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("part", "state", "url", "pids", "restarts"):
        rows.add_column(heading, no_wrap=heading != "pids")
    for name, part in _parts(report):
        state = f"[{COLOURS.get(part['state'], 'yellow')}]{part['state']}[/]"
        rows.add_row(
            name,
            state,
            part.get("url"),
            " ".join(map(str, part["pids"])),
            str(part.get("restarts", "")),
        )
    return rows


def status_details(report: dict[str, Any]) -> list[str]:
    """What each worker serves, what waits to be shipped, and why something is not as it should be."""
    lines = []
    for name, part in _parts(report):
        lines += [
            f"{name}: worker {worker.get('pid')} serves version {worker.get('version') or '(none)'}"
            for worker in part.get("workers", [])
        ]
        lines += (
            [f"{name}: {part['backlog_bytes']:,} bytes wait to be shipped"]
            if part.get("backlog_bytes")
            else []
        )
        if part.get("reason"):
            times = (
                f"started again {part['restarts']} times; the last time because "
                if part["state"] == "running" and part.get("restarts")
                else ""
            )
            lines.append(f"{name}: {times}{part['reason']}")
    return lines + ([f"alias: {report['alias']}"] if report["alias"] else [])


def _parts(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, part) for name, part in report.items() if isinstance(part, dict)]


def _plain(reason: str | None) -> str:
    return escape(reason or "for no known reason")
