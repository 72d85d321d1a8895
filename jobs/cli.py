"""The console script `fraudops`: thin over what the Jobs run.

A command's module is imported only when it is used.
"""

import importlib
import os
import sys
from typing import Any

import click

from jobs.runner import run

# command → (module, help); each module has a click command named `command`
COMMANDS = {
    "data": ("jobs.data", "Look at, fetch, generate and check data."),
    "train": ("jobs.train", "Train a model and register it with its bundle."),
    "validate": ("jobs.validate", "Put a version through the gates and store the verdict."),
    "models": ("jobs.models", "Versions, aliases and verdicts."),
    "promote": ("jobs.promote", "Move a version to production, everywhere or nowhere."),
    "pipeline": ("jobs.pipeline", "Train, validate and promote as one."),
    "rollback": ("jobs.rollback", "Back to what served before."),
    "reconcile": ("jobs.reconcile", "Bring alias and rows after the serving record."),
    "predict": ("jobs.predict", "Score one transaction."),
    "score": ("jobs.score", "Score a file with the model that serves; resumable, in shards."),
    "monitor": ("jobs.monitor", "Volume, decisions, latency and live quality."),
    "drift": ("jobs.drift", "Compare what was scored with the production version's reference."),
    "simulate": ("jobs.simulate", "Send traffic, with labels and drift to order."),
    "retention": (
        "jobs.retention",
        "Drop days of predictions beyond their time, make the next ones.",
    ),
    "audit": ("jobs.audit", "Prove that the audit is whole, export it, replay, forget."),
    "migrate": ("jobs.migrate", "Bring the audit database to this release's schema."),
    "demo": ("jobs.demo", "The whole road of a model on this machine."),
    "settings": ("jobs.settings", "Every setting, with its default."),
}
SUPERVISOR = {
    "up": "Start everything on this machine.",
    "down": "Stop everything that `up` started.",
    "status": "Each part's url, pids and state, and the version that each worker serves (--on-cluster: of every pod).",
}


class LazyGroup(click.Group):
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
        with formatter.section("Commands"):
            formatter.write_dl(
                [*SUPERVISOR.items(), *((name, text) for name, (_, text) in COMMANDS.items())]
            )


def _supervisor(name: str) -> click.Command:
    """The supervisor is a service, which jobs never import: it takes this process over, signals
    included, with the arguments as they are.
    """

    def start(args: tuple[str, ...]) -> Any:
        if name == "status" and "--on-cluster" in args:
            status: click.Command = importlib.import_module("jobs.cluster_status").command
            return status.main(list(args), prog_name="fraudops status", standalone_mode=False)
        return os.execv(sys.executable, [sys.executable, "-m", "services.supervisor", name, *args])

    settings: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}
    arguments: list[click.Parameter] = [click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)]
    return click.Command(
        name, callback=start, params=arguments, context_settings=settings, help=SUPERVISOR[name]
    )


@click.command(cls=LazyGroup)
@click.version_option(package_name="fraudops")
def cli() -> None:
    """Train, validate, promote, serve, audit and watch a card-fraud model."""


def main() -> None:
    run(cli)
