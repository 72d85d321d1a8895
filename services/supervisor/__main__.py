"""`python -m services.supervisor up|down|status`: fraudops on one machine."""

import json
import sys

import click
from rich.console import Console

from fraudops.errors import FraudopsError, SettingsError
from fraudops.state import DEFAULT_STATE, State

notices = Console(stderr=True, highlight=False, soft_wrap=True)
# A table in a pipe is read by a program, so its lines are not wrapped at 80 columns.
output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
state_option = click.option(
    "--state",
    envvar="FRAUDOPS_STATE",
    default=DEFAULT_STATE,
    show_default=True,
    metavar="FOLDER",
    callback=lambda _context, _parameter, value: State.at(value),
    help="The state folder: data, settings and logs.",
)


@click.group()
def cli() -> None:
    """Run fraudops on one machine.

    The components are PostgreSQL, MLflow, the inference service and its shipper. A supervisor
    restarts those that fail.
    """


@cli.command()
@state_option
@click.option(
    "--detach", is_flag=True, help="Return when all components run. `fraudops down` stops them."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    envvar="FRAUDOPS_WORKERS",
    help="Workers of the inference service.  [default: as last time, else 2]",
)
@click.option(
    "--host",
    envvar="FRAUDOPS_HOST",
    help="Host of the inference service.  [default: as last time, else 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="FRAUDOPS_PORT",
    help="Port of the inference service.  [default: as last time, else a free one from 8000 on]",
)
def up(state: State, detach: bool, workers: int | None, host: str | None, port: int | None) -> None:
    """Start all components, or those that do not run."""
    from services.supervisor.up import UpOptions, up_detached, up_in_foreground

    start = up_detached if detach else up_in_foreground
    sys.exit(start(state, UpOptions(host, port, workers), notices, output))


@cli.command()
@state_option
def down(state: State) -> None:
    """Stop all components in order."""
    from services.supervisor.down import down as stop

    stop(state, notices)


@cli.command()
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(state: State, as_json: bool) -> None:
    """Show each component's URL, pids and state, and the version that each worker serves.

    Exits with 75 when a component does not work.
    """
    from fraudops.terminal import print_table
    from services.supervisor.display import status_details, status_table
    from services.supervisor.status import report

    current = report(state)
    if as_json:
        output.print(json.dumps(current, indent=2), markup=False)
    else:
        print_table(output, status_table(current))
        for line in status_details(current):
            output.print(line, markup=False)
    sys.exit(0 if current["well"] else 75)


def main() -> None:
    try:
        cli.main(prog_name="fraudops", standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64)
    except FraudopsError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except PermissionError as error:
        _print_error(
            f"{error.filename or 'the running fraudops'} belongs to another user: run as that "
            "user, or name another folder with --state"
        )
        sys.exit(SettingsError.exit_code)


def _print_error(text: str) -> None:
    notices.print("[bold red]error:[/]", end=" ")
    notices.print(text, markup=False)


if __name__ == "__main__":
    main()
