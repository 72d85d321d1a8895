"""Run the whole lifecycle of a model on this machine.

The demo runs the commands that a person would type, and shows each one before it runs.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Sequence

import click
from rich.text import Text

from fraudops import endpoints
from fraudops.errors import FraudopsError
from fraudops.state import DEFAULT_STATE, State
from jobs.commands import CommandFailedError, CommandResult, Interrupts, Terminal
from jobs.runner import notices, output, run, state_option

POLL_SECONDS = 0.5
HELD_OUT = ("simulate", "--rows", "2000")
DRIFTED = ("simulate", "--rows", "1000", "--drift", "covariate")


class UnexpectedResultError(FraudopsError):
    """A step succeeded, but without the result that the demo shows."""


@click.command(name="demo")
@click.option(
    "--exit", "leave", is_flag=True, help="Stop everything at the end instead of staying up."
)
@state_option
def command(leave: bool, state: State) -> None:
    """Run the whole lifecycle of a model: train, validate, promote, predict, audit, drift.

    Uses the packaged sample of real card transactions. Stays up until Ctrl-C.
    """
    interrupts = Interrupts()
    terminal = Terminal(interrupts, state_words(state))
    was_up = is_up(terminal, state)
    try:
        report = run_lifecycle(terminal)
        show_summary(terminal, state, report)
        if was_up:
            output.print("It was up before the demo, so it stays up. Stop it: fraudops down")
        elif not leave:
            stay(state)
    except CommandFailedError as error:
        up = f"fraudops up --detach{shown(terminal.suffix)}"
        notices.print(
            Text(
                f"\nthe demo ends here: {error}; its message is above, the logs are in "
                f"{state.logs}; to look around: {up}, then the command again",
                "bold red",
            )
        )
        raise
    except KeyboardInterrupt:
        notices.print("\nstopping everything")
        raise click.Abort from None
    finally:
        # A second Ctrl-C must not leave half of the processes running.
        interrupts.ignore()
        if not was_up:
            terminal.run("down")


def run_lifecycle(terminal: Terminal) -> str:
    """Run all steps and return the path of the drift report, which only the last scan writes.

    Raises CommandFailedError at the first step that fails, and UnexpectedResultError.
    """
    terminal.run("up", "--detach")
    trained = terminal.run("train")
    validated = terminal.run(*next_command(trained))
    terminal.run(*next_command(validated))
    terminal.run("predict")
    terminal.run(*HELD_OUT)
    terminal.run("monitor", "--hours", "1")
    expect("NONE", terminal.run("drift", "--hours", "1", "--no-report"))
    # The first window beyond the thresholds is a warning, the second in a row an alarm.
    terminal.run(*DRIFTED)
    expect("WARNING", terminal.run("drift", "--since", "last", "--no-report"))
    terminal.run(*DRIFTED)
    alarm = terminal.run("drift", "--since", "last")
    expect("ALARM", alarm)
    return match_line(r"^report: (.*)$", alarm)


def next_command(result: CommandResult) -> list[str]:
    """Return the words of the next command that the result suggests."""
    return shlex.split(match_line(r"^[Nn]ext: fraudops (.*)$", result))


def expect(verdict: str, result: CommandResult) -> None:
    """Raise UnexpectedResultError if a drift scan has another verdict."""
    actual = match_line(r"^verdict: ([A-Z ]+)", result)
    if actual != verdict:
        raise UnexpectedResultError(
            f"`{result.command}` reports {actual}, but the demo is made to show {verdict}"
        )


def match_line(pattern: str, result: CommandResult) -> str:
    """Return the group of the first output line that matches. Raises UnexpectedResultError."""
    match = re.search(pattern, result.printed, re.MULTILINE)
    if match is None:
        raise UnexpectedResultError(
            f"`{result.command}` succeeded but printed no line like {pattern}"
        )
    return match[1]


def show_summary(terminal: Terminal, state: State, report: str) -> None:
    """Print the seconds of each step and the addresses to look at."""
    urls = endpoints.read(state)
    output.print()
    for result in terminal.results:
        output.print(Text(f"{result.seconds:6.1f} s  {result.command}"))
    total = sum(result.seconds for result in terminal.results)
    output.print(Text(f"{total:6.1f} s  in total\n"))
    output.print(Text(f"predictions      {urls.inference_url}/docs"))
    output.print(Text(f"models and runs  {urls.mlflow_url}/#/models"))
    output.print(Text(f"drift alarm      file://{report}"))


def stay(state: State) -> None:
    """Wait for Ctrl-C, or until another command stops the product."""
    output.print(
        "\n[bold]Everything is up. Ctrl-C stops it.[/] In another terminal try: fraudops status, "
        "fraudops models, fraudops --help"
    )
    try:
        while state.endpoints.exists():
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        output.print()


def is_up(terminal: Terminal, state: State) -> bool:
    """Return whether a supervisor runs already; the demo must not stop that one."""
    if not state.endpoints.exists():
        return False
    result = terminal.run_silently("status", "--json")
    try:
        return bool(json.loads(result.stdout)["supervisor"]["state"] == "running")
    except (ValueError, KeyError):
        return False


def state_words(state: State) -> Sequence[str]:
    """Return the option that makes every command use this folder; none for the default folder."""
    default = State.at(os.environ.get("FRAUDOPS_STATE", DEFAULT_STATE))
    return () if state == default else ("--state", str(state.root))


def shown(words: Sequence[str]) -> str:
    """Return the words in shell quotes where needed, each after a space."""
    return "".join(f" {shlex.quote(word)}" for word in words)


if __name__ == "__main__":
    run(command)
