"""Shared start and end of every job: options, exit codes, output streams and retries.

A user's mistake ends with one line and the exit code of its error, without a stack trace.
"""

import contextlib
import io
import json
import os
import pwd
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.proxies import bypass_proxies
from fraudops.state import DEFAULT_STATE, State
from jobs.sigterm import EXIT_CODE as SIGTERM_EXIT_CODE
from jobs.sigterm import sigterm_as_interrupt

# Standard output carries what a program may read (tables, --json). Progress and notices are
# written to standard error.
notices = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False, soft_wrap=True)
# Kubernetes shows the content of this file as the reason why the container ended.
TERMINATION_LOG = Path("/dev/termination-log")
# Kubernetes cuts a termination message at 4096 bytes.
MAX_TERMINATION_BYTES = 4000
# A pod's log mixes both streams. `--on-cluster` recognises a line of standard output by this
# first character.
OUTPUT_MARK = "\x1e"
MARK_VARIABLE = "FRAUDOPS_MARK_OUTPUT"
TERMINATED = (
    "stopped by SIGTERM before the end: look at `fraudops status`, then run the command again; a "
    "Job of the cluster starts its next try by itself"
)
RETRY_PAUSE_SECONDS = 1.0
Result = TypeVar("Result")


def _to_state(_context: click.Context, _parameter: click.Parameter, value: str) -> State:
    return State.at(value)


def _state_option(**settings: Any) -> Callable[[Any], Any]:
    shared: dict[str, Any] = {
        "envvar": "FRAUDOPS_STATE",
        "default": DEFAULT_STATE,
        "show_default": True,
        "metavar": "FOLDER",
        "help": "The state folder of `fraudops up`.",
    }
    return click.option("--state", **shared, **settings)


state_option = _state_option(callback=_to_state)
# For commands that do not use the folder. Every command accepts --state, so that scripts can pass
# it to all of them.
any_state_option = _state_option(expose_value=False)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object to standard output, and everything else to standard error.",
)

if_epoch_option = click.option(
    "--if-epoch",
    type=click.IntRange(0),
    metavar="N",
    help="Refuse unless the serving record is at exactly this epoch (`epoch` of `fraudops models "
    "--json`); 0: no version serves yet.",
)


def wait_option(seconds: float, text: str) -> Callable[[Any], Any]:
    """Return the option `--wait SECONDS` with this default and this help text."""
    return click.option(
        "--wait",
        "wait_seconds",
        type=click.FloatRange(0),
        default=seconds,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


def target_options(state: State) -> str:
    """Return the options that make a suggested command act on the same installation.

    The result begins with a space, or is empty: ` --on-cluster`, ` --state FOLDER` or ``.
    """
    if os.environ.get(MARK_VARIABLE):
        return " --on-cluster"
    if state == State.at(os.environ.get("FRAUDOPS_STATE", DEFAULT_STATE)):
        return ""
    return f" --state {shlex.quote(str(state.root))}"


def user_name() -> str:
    """Return the name of the user who runs this process, or `uid N` if the user has no name."""
    try:
        # Not `getpass.getuser`, which believes the variable LOGNAME.
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def say(text: str) -> None:
    """Print one line of progress to standard error."""
    notices.print(f"[dim]{escape(text)}[/]")


def warn(text: str) -> None:
    """Print one line that a user must not miss to standard error."""
    notices.print(f"[yellow]{escape(text)}[/]")


def retry_until(
    attempt: Callable[[], Result], deadline: float, pause_seconds: float = RETRY_PAUSE_SECONDS
) -> Result:
    """Call `attempt` until it returns, and return its result.

    `deadline` is a time of `time.monotonic()`. A StoreDownError leads to the next attempt; its
    message is printed unless the attempt before failed with the same one. Raises the
    StoreDownError of the last attempt when no other attempt fits before the deadline.
    """
    printed = ""
    while True:
        try:
            return attempt()
        except StoreDownError as error:
            if time.monotonic() + pause_seconds > deadline:
                raise
            if str(error) != printed:
                printed = str(error)
                notices.print(f"waiting: {printed}", markup=False)
            time.sleep(pause_seconds)


def run(command: Callable[..., Any]) -> None:
    """Run a click command as a program and exit with its code.

    The codes: 0 for success, the error's own code for a FraudopsError, 64 for wrong usage, 130
    after Ctrl-C, 143 after SIGTERM, and 1 with a stack trace for a defect of fraudops. A command
    may return an exit code, or one line of text, which the container leaves as its termination
    message.
    """
    if os.environ.get(MARK_VARIABLE):
        sys.stdout = marked(sys.stdout.buffer)
    # Before any HTTP client is made: each client reads the proxy variables when it is made.
    bypass_proxies()
    try:
        with sigterm_as_interrupt() as sigterm:
            result = command.main(standalone_mode=False)  # type: ignore[attr-defined]
    except click.Abort:
        if sigterm.received:
            notices.print(TERMINATED)
            conclude(TERMINATED)
            sys.exit(SIGTERM_EXIT_CODE)
        notices.print("stopped")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        conclude(error.format_message())
        sys.exit(64)
    except FraudopsError as error:
        notices.print(f"[bold red]error:[/] {escape(str(error))}")
        conclude(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        # Only the type: the message of an unexpected error may quote card data.
        conclude(f"crashed with {type(error).__name__}: see the log")
        raise
    if isinstance(result, str):
        conclude(result)
    elif isinstance(result, int):
        sys.exit(result)


def conclude(text: str, path: Path = TERMINATION_LOG) -> None:
    """Write the text as one line to the termination log, if the process runs in a container."""
    # A cut in the middle of a character leaves bytes that are not UTF-8; `ignore` drops them.
    line = " ".join(text.split()).encode()[:MAX_TERMINATION_BYTES].decode(errors="ignore")
    with contextlib.suppress(OSError):
        # No O_CREAT: outside a container the file does not exist and must not be created.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class _MarkedLines(io.RawIOBase):
    """A writer that copies bytes to another stream and puts the mark before every line."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._mark = stream, OUTPUT_MARK.encode()
        self._at_start = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        for line in bytes(data).splitlines(keepends=True):
            # A line may arrive in several writes. Only its first part gets the mark.
            self._stream.write(self._mark + line if self._at_start else line)
            self._at_start = line.endswith(b"\n")
        self._stream.flush()
        return len(data)


def marked(stream: Any) -> io.TextIOWrapper:
    """Return a text stream that writes to a binary stream and marks each line as output."""
    return io.TextIOWrapper(
        io.BufferedWriter(_MarkedLines(stream)), encoding="utf-8", line_buffering=True
    )
