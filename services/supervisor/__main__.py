"""`python -m services.supervisor up|down|status`: everything on this machine."""

import json
import sys

import click
from rich.console import Console

from fraudops.errors import FraudopsError, SettingsError
from fraudops.state import DEFAULT_STATE, State

notices = Console(stderr=True, highlight=False, soft_wrap=True)
# A table in a pipe is read by whoever comes next, not by a terminal of 80 columns.
output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
state_option = click.option(
    "--state",
    envvar="FRAUDOPS_STATE",
    default=DEFAULT_STATE,
    show_default=True,
    metavar="FOLDER",
    callback=lambda _context, _parameter, value: State.at(value),
    help="Where everything is kept.",
)


@click.group()
def cli() -> None:
    """Everything on this machine: PostgreSQL, MLflow, the inference service and its shipper, under
    a supervisor that restarts what dies.
    """


@cli.command()
@state_option
@click.option("--detach", is_flag=True, help="Return when all runs; `fraudops down` stops it.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    envvar="FRAUDOPS_WORKERS",
    help="Of the inference service.  [default: as last time, else 2]",
)
@click.option(
    "--host",
    envvar="FRAUDOPS_HOST",
    help="Where the inference service listens.  [default: as last time, else 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="FRAUDOPS_PORT",
    help="Of the inference service.  [default: as last time, else a free one from 8000 on]",
)
def up(state: State, detach: bool, workers: int | None, host: str | None, port: int | None) -> None:
    """Start everything, or repair what is not running."""
    from services.supervisor.up import UpOptions, up_detached, up_here

    sys.exit(
        (up_detached if detach else up_here)(state, UpOptions(host, port, workers), notices, output)
    )


@cli.command()
@state_option
def down(state: State) -> None:
    """Stop everything, in order, and leave nothing running."""
    from services.supervisor.down import down as stop

    stop(state, notices)


@cli.command()
@state_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def status(state: State, as_json: bool) -> None:
    """Each part's url, pids and state, and the version that each worker serves.

    Exits 75 when not all is well.
    """
    from fraudops.terminal import print_table
    from services.supervisor.display import status_details, status_table
    from services.supervisor.status import report

    found = report(state)
    if as_json:
        output.print(json.dumps(found, indent=2), markup=False)
    else:
        print_table(output, status_table(found))
        for line in status_details(found):
            output.print(line, markup=False)
    sys.exit(0 if found["well"] else 75)


def main() -> None:
    try:
        cli.main(prog_name="fraudops", standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64)
    except FraudopsError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except PermissionError as error:
        _complain(
            f"{error.filename or 'what runs there'} belongs to another user: run as that user, or name another folder with --state"
        )
        sys.exit(SettingsError.exit_code)


def _complain(text: str) -> None:
    notices.print("[bold red]error:[/]", end=" ")
    notices.print(text, markup=False)


if __name__ == "__main__":
    main()
