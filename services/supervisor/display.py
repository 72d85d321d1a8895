"""Output for people: a line for each change of a component, and two tables."""

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
    """Prints a line for each change of a component since the last call.

    With `dated` every line starts with the time, for a log file.
    """

    def __init__(self, console: Console, dated: bool = False) -> None:
        self._console = console
        self.dated = dated
        self._announced: dict[str, tuple[Phase, int]] = {}

    def skip(self, record: Record) -> None:
        """Count the record's present state as announced."""
        self._announced = {
            name: (component.phase, component.restarts)
            for name, component in record.components.items()
        }

    def announce(self, record: Record) -> None:
        for name, component in record.components.items():
            if self._announced.get(name) != (component.phase, component.restarts):
                self._announced[name] = (component.phase, component.restarts)
                self._announce_component(name, component)

    def _announce_component(self, name: str, component: ComponentRecord) -> None:
        reason = escape(component.reason or "unknown reason")
        after = f"after {component.seconds:.1f} s" if component.seconds else "already"
        text = {
            "running": f"[green]●[/] {name} runs [dim]{after}[/]",
            "restarting": f"[yellow]●[/] {name}: {reason}; restarting it",
            "gave up": f"[red]●[/] {name}: gave up: {reason}",
            "stopping": f"[dim]●[/] {name} is stopping",
            "stopped": f"[dim]●[/] {name} has stopped",
        }.get(component.phase)
        if text:
            self.print(text)

    def show(self, rows: Table, output: Console) -> None:
        with contextlib.suppress(OSError):
            print_table(output, rows)

    def print(self, text: str) -> None:
        date = f"{datetime.now().astimezone().isoformat(timespec='seconds')} " if self.dated else ""
        # The terminal may be gone, or its pipe closed. The components run without it.
        with contextlib.suppress(OSError):
            self._console.print(f"{date}{text}")


def settled(record: Record) -> bool:
    """Return whether every component either runs or was given up."""
    return bool(record.components) and all(
        component.phase in SETTLED for component in record.components.values()
    )


def address_table(state: State, config: RunConfig) -> Table:
    rows = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows.add_row("predictions", config.inference_url, f"[dim]{config.inference_url}/docs[/]")
    rows.add_row("models", config.mlflow_url, "[dim]MLflow[/]")
    rows.add_row(
        "audit",
        f"postgresql://127.0.0.1:{config.postgresql_port}/fraudops",
        "[dim]its password is in up.json[/]",
    )
    rows.add_row("state", escape(str(state.root)), "[dim]logs in logs/[/]")
    return rows


def status_table(report: dict[str, Any]) -> Table:
    """Format the components of `status.report` as a table."""
    rows = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("component", "state", "url", "pids", "restarts"):
        rows.add_column(heading, no_wrap=heading != "pids")
    for name, component in _components(report):
        colour = COLOURS.get(component["state"], "yellow")
        rows.add_row(
            name,
            f"[{colour}]{component['state']}[/]",
            component.get("url"),
            " ".join(map(str, component["pids"])),
            str(component.get("restarts", "")),
        )
    return rows


def status_details(report: dict[str, Any]) -> list[str]:
    """Return the lines below the table: versions by worker, backlog, and reasons of failures."""
    lines = []
    for name, component in _components(report):
        lines += [
            f"{name}: worker {worker.get('pid')} serves version {worker.get('version') or '(none)'}"
            for worker in component.get("workers", [])
        ]
        if component.get("backlog_bytes"):
            lines.append(f"{name}: {component['backlog_bytes']:,} bytes wait to be shipped")
        if component.get("reason"):
            # The reason of a component that runs again is that of its last restart.
            restarted = component["state"] == "running" and component.get("restarts")
            prefix = f"restarted {component['restarts']} times, last because " if restarted else ""
            lines.append(f"{name}: {prefix}{component['reason']}")
    lines += [f"alias: {report['alias']}"] if report["alias"] else []
    return lines + ([f"signature: {report['unsigned']}"] if report["unsigned"] else [])


def _components(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    # Of the report's values only components (and the supervisor) are objects.
    return [(name, value) for name, value in report.items() if isinstance(value, dict)]
