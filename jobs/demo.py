"""The whole road of a model on this machine, by the very commands that a person would type, each
shown before it runs.
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
from jobs.commands import CommandFailedError, Done, Interrupts, Terminal
from jobs.runner import notices, output, run, state_option

LOOK_SECONDS = 0.5
HELD_OUT = ("simulate", "--rows", "2000")
DRIFTED = ("simulate", "--rows", "1000", "--drift", "covariate")


class DemoSurprisedError(FraudopsError):
    """A step ended well and did not find what the demo is there to show."""


@click.command(name="demo")
@click.option(
    "--exit", "leave", is_flag=True, help="Stop everything at the end instead of staying up."
)
@state_option
def command(leave: bool, state: State) -> None:
    """The whole road of a model on this machine: train, validate, promote, predict, audit, drift.

    On the packaged sample of real card transactions. Stays up until Ctrl-C.
    """
    interrupts = Interrupts()
    terminal = Terminal(interrupts, state_words(state))
    guest = is_up(terminal, state)
    try:
        report = walk(terminal)
        show_ending(terminal, state, report)
        if guest:
            output.print("It was up before the demo, so it stays up: fraudops down stops it.")
        elif not leave:
            stay(state)
    except CommandFailedError as error:
        look = f"what it says is above, the logs are in {state.logs}; to look around: fraudops up --detach{shown(terminal.suffix)}, then the command again"
        notices.print(Text(f"\nthe demo ends here: {error}; {look}", "bold red"))
        raise
    except KeyboardInterrupt:
        notices.print("\nstopping everything")
        raise click.Abort from None
    finally:
        interrupts.ignore()
        if not guest:
            terminal.type("down")


def walk(terminal: Terminal) -> str:
    """The road; returns the path of the drift report, which the last scan alone writes.

    Raises CommandFailedError at the first step that fails.
    """
    terminal.type("up", "--detach")
    trained = terminal.type("train")
    validated = terminal.type(*following(trained))
    terminal.type(*following(validated))
    terminal.type("predict")
    terminal.type(*HELD_OUT)
    terminal.type("monitor", "--hours", "1")
    expect("NONE", terminal.type("drift", "--hours", "1", "--no-report"))
    terminal.type(*DRIFTED)
    expect("WARNING", terminal.type("drift", "--since", "last", "--no-report"))
    terminal.type(*DRIFTED)
    alarm = terminal.type("drift", "--since", "last")
    expect("ALARM", alarm)
    return found(r"^report: (.*)$", alarm)


def following(done: Done) -> list[str]:
    """The words of the command that this one names as the next."""
    return shlex.split(found(r"^[Nn]ext: fraudops (.*)$", done))


def expect(verdict: str, done: Done) -> None:
    said = found(r"^verdict: ([A-Z ]+)", done)
    if said != verdict:
        raise DemoSurprisedError(
            f"`{done.typed}` says {said} where this demo was made to show {verdict}"
        )


def found(pattern: str, done: Done) -> str:
    match = re.search(pattern, done.printed, re.MULTILINE)
    if match is None:
        raise DemoSurprisedError(f"`{done.typed}` ended well but printed no line like {pattern}")
    return match[1]


def show_ending(terminal: Terminal, state: State, report: str) -> None:
    """Each step's seconds, and where to look now."""
    urls = endpoints.read(state)
    output.print()
    for done in terminal.done:
        output.print(Text(f"{done.seconds:6.1f} s  {done.typed}"))
    output.print(Text(f"{sum(done.seconds for done in terminal.done):6.1f} s  in all\n"))
    output.print(Text(f"predictions      {urls.inference_url}/docs"))
    output.print(Text(f"models and runs  {urls.mlflow_url}/#/models"))
    output.print(Text(f"drift alarm      file://{report}"))


def stay(state: State) -> None:
    """Until Ctrl-C, or until somebody else stops what runs."""
    output.print(
        "\n[bold]Everything is up. Ctrl-C stops it all.[/] Meanwhile, in another terminal: fraudops status, fraudops models, fraudops --help"
    )
    try:
        while state.endpoints.exists():
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        output.print()


def is_up(terminal: Terminal, state: State) -> bool:
    """Whether a supervisor was there before us: then it is not ours to stop."""
    if not state.endpoints.exists():
        return False
    answer = terminal.ask("status", "--json")
    try:
        return bool(json.loads(answer.stdout)["supervisor"]["state"] == "running")
    except (ValueError, KeyError):
        return False


def state_words(state: State) -> Sequence[str]:
    """What a person would have to add to every command to mean this folder."""
    usual = State.at(os.environ.get("FRAUDOPS_STATE", DEFAULT_STATE))
    return () if state == usual else ("--state", str(state.root))


def shown(words: Sequence[str]) -> str:
    return "".join(f" {shlex.quote(word)}" for word in words)


if __name__ == "__main__":
    run(command)
