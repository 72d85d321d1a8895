"""How every job begins and ends: shared options, one table from errors to exit codes, no stack trace for a user's mistake."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from fraudops.errors import FraudopsError
from fraudops.state import DEFAULT_STATE, State

# Standard output carries what a program may read (tables, --json); progress and notices go to standard error.
notices = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False, soft_wrap=True)


def _to_state(_context: click.Context, _parameter: click.Parameter, value: str) -> State:
    return State.at(value)


state_option = click.option(
    "--state",
    envvar="FRAUDOPS_STATE",
    default=DEFAULT_STATE,
    show_default=True,
    metavar="FOLDER",
    callback=_to_state,
    help="The state folder of `fraudops up`.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, all else on standard error.")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def run(command: Callable[..., Any]) -> None:
    """Runs a click command as a program: exit 0, the error's own code, 64 for wrong usage, 1 for a defect of ours (with its stack trace)."""
    try:
        command.main(standalone_mode=False)  # type: ignore[attr-defined]
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.Abort:
        notices.print("stopped")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64)
    except FraudopsError as error:
        notices.print(f"[bold red]error:[/] {_escape(str(error))}")
        sys.exit(error.exit_code)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
