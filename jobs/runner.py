"""How every job begins and ends: shared options, one table from errors to exit codes, one line of
what happened, no stack trace for a user's mistake.
"""

import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fraudops.errors import FraudopsError
from fraudops.proxies import bypass_proxies
from fraudops.state import DEFAULT_STATE, State

# Standard output carries what a program may read (tables, --json); progress and notices go to
# standard error.
notices = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False, soft_wrap=True)
# Kubernetes shows what a container wrote here as the reason of its end.
TERMINATION_LOG = Path("/dev/termination-log")
MAX_TERMINATION_BYTES = 4000
# A pod's log mixes the two streams; `--on-cluster` tells them apart by this first character of
# every line of standard output.
OUTPUT_MARK = "\x1e"
MARK_VARIABLE = "FRAUDOPS_MARK_OUTPUT"


def _to_state(_context: click.Context, _parameter: click.Parameter, value: str) -> State:
    return State.at(value)


def _state(**more: Any) -> Callable[[Any], Any]:
    text = "The state folder of `fraudops up`."
    shared: dict[str, Any] = {
        "envvar": "FRAUDOPS_STATE",
        "default": DEFAULT_STATE,
        "show_default": True,
        "metavar": "FOLDER",
        "help": text,
    }
    return click.option("--state", **shared, **more)


state_option = _state(callback=_to_state)
# For commands that need none: every command takes --state.
any_state_option = _state(expose_value=False)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object on standard output, all else on standard error.",
)


def where(state: State) -> str:
    """What to type after the next command so that it works on this same product: `--on-cluster`,
    `--state FOLDER`, or nothing.
    """
    if os.environ.get(MARK_VARIABLE):
        return " --on-cluster"
    return (
        ""
        if state == State.at(os.environ.get("FRAUDOPS_STATE", DEFAULT_STATE))
        else f" --state {shlex.quote(str(state.root))}"
    )


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def run(command: Callable[..., Any]) -> None:
    """Runs a click command as a program: exit 0, the error's own code, 64 for wrong usage, 1 for a
    defect of ours (with its stack trace).

    A command may return one line of what happened, which a container leaves behind as its
    termination message, or an exit code.
    """
    if os.environ.get(MARK_VARIABLE):
        sys.stdout = marked(sys.stdout.buffer)
    bypass_proxies()
    try:
        ended = command.main(standalone_mode=False)  # type: ignore[attr-defined]
    except click.Abort:
        notices.print("stopped")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        conclude(error.format_message())
        sys.exit(64)
    except FraudopsError as error:
        notices.print(f"[bold red]error:[/] {_escape(str(error))}")
        conclude(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        conclude(f"crashed with {type(error).__name__}: see the log")  # its message may quote data
        raise
    if isinstance(ended, str):
        conclude(ended)
    elif isinstance(ended, int):
        sys.exit(ended)


def conclude(text: str, path: Path = TERMINATION_LOG) -> None:
    """Leaves the text as one line where Kubernetes looks for it; does nothing elsewhere."""
    line = " ".join(text.split()).encode()[:MAX_TERMINATION_BYTES].decode(errors="ignore")
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class _MarkedLines(io.RawIOBase):
    """Bytes on their way to another stream, with the mark before every line."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._mark = stream, OUTPUT_MARK.encode()
        self._at_start = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        for line in bytes(data).splitlines(keepends=True):
            self._stream.write(self._mark + line if self._at_start else line)
            self._at_start = line.endswith(b"\n")
        self._stream.flush()
        return len(data)


def marked(stream: Any) -> io.TextIOWrapper:
    """A text stream that writes to the binary one line by line, each line marked as standard output."""
    return io.TextIOWrapper(
        io.BufferedWriter(_MarkedLines(stream)), encoding="utf-8", line_buffering=True
    )


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
