"""The console script `fraudops`: one command per module of this package.

A command's module is imported when the command runs, so that `fraudops --help` starts quickly.
"""

import importlib
import os
import sys
from functools import partial
from typing import Any

import click

from jobs.runner import run

# Command: (module, help). Each module has a click command with the name `command`.
COMMANDS = {
    "data": ("jobs.data", "Describe, check, fetch, generate and push data."),
    "train": ("jobs.train", "Train a model and register it with its bundle."),
    "validate": ("jobs.validate", "Check a version against the gates and store the verdict."),
    "models": ("jobs.models", "List versions with aliases and verdicts."),
    "verify": ("jobs.verify", "Show what was signed about a version, and verify its bundle."),
    "promote": ("jobs.promote", "Move a version to production, everywhere or nowhere."),
    "waive": ("jobs.waive", "Sign a waiver for one promotion request."),
    "keys": ("jobs.keys", "List, rotate and retire the keys that sign verdicts and waivers."),
    "api-keys": ("jobs.api_keys", "Make, list and remove the API keys of the service's clients."),
    "approve": ("jobs.approve", "Approve a promotion that another user has started."),
    "pipeline": ("jobs.pipeline", "Train, validate and promote in one run."),
    "promotions": ("jobs.promotions", "List promotions: who, why, and how each ended."),
    "rollback": ("jobs.rollback", "Return to the version that served before."),
    "reconcile": ("jobs.reconcile", "Update alias and rows to match the serving record."),
    "predict": ("jobs.predict", "Score one transaction."),
    "score": ("jobs.score", "Score a file with the current model; resumable, in shards."),
    "monitor": ("jobs.monitor", "Show volume, decisions, latency and live quality."),
    "drift": ("jobs.drift", "Compare recent traffic with the production version's reference."),
    "simulate": ("jobs.simulate", "Send traffic, with labels and optional drift."),
    "retention": ("jobs.retention", "Drop expired days of predictions, create the next ones."),
    "audit": ("jobs.audit", "Verify, export and replay the audit, and forget features."),
    "migrate": ("jobs.migrate", "Upgrade the audit database to this release's schema."),
    "demo": ("jobs.demo", "Run the whole lifecycle of a model on this machine."),
    "settings": ("jobs.settings", "List every setting with its default."),
}
SUPERVISOR = {
    "up": "Start everything on this machine.",
    "down": "Stop everything that `up` started.",
    "status": "Show each component's URL, pids and state, and the version that each worker serves "
    "(--on-cluster: of every pod).",
}


class LazyGroup(click.Group):
    """A group that lists all commands without importing their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SUPERVISOR, *COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in SUPERVISOR:
            return _supervisor(name)
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the tables above; click would import every module."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [*SUPERVISOR.items(), *((name, text) for name, (_, text) in COMMANDS.items())]
            )


def _supervisor(name: str) -> click.Command:
    """Return a command that hands its arguments to the supervisor unchanged."""
    # The supervisor parses all arguments itself, --help included.
    settings: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}
    arguments: list[click.Parameter] = [click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)]
    return click.Command(
        name,
        callback=partial(_start, name),
        params=arguments,
        context_settings=settings,
        help=SUPERVISOR[name],
    )


def _start(name: str, args: tuple[str, ...]) -> Any:
    if name == "status" and "--on-cluster" in args:
        status: click.Command = importlib.import_module("jobs.cluster_status").command
        return status.main(list(args), prog_name="fraudops status", standalone_mode=False)
    # The supervisor is a service, and jobs never import services, so it replaces this process.
    # exec keeps the pid: signals reach the supervisor directly.
    return os.execv(sys.executable, [sys.executable, "-m", "services.supervisor", name, *args])


@click.command(cls=LazyGroup)
@click.version_option(package_name="fraudops")
def cli() -> None:
    """Train, validate, promote, serve, audit and monitor a card-fraud model."""


def main() -> None:
    run(cli)
