"""The option `--on-cluster`: run a command as a Job of the chart and follow it.

One decorator adds the option to a command.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

import click

from fraudops.errors import SettingsError
from jobs.runner import MARK_VARIABLE, OUTPUT_MARK, notices, output, say

if TYPE_CHECKING:
    from fraudops.cluster.runner import JobSpec

MARK = OUTPUT_MARK.encode()
# Options about this machine, with the number of values that follow each. The pod does not get
# them, because its files have other paths.
LOCAL_OPTIONS = {"--on-cluster": 0, "--release": 1, "--namespace": 1, "--state": 1}
cluster_options: tuple[click.Option, ...] = (
    click.Option(
        ["--on-cluster"],
        is_flag=True,
        help="Run the command as a Job of the chart, through your kubeconfig. File names then "
        "mean files in the pod.",
    ),
    click.Option(
        ["--release"],
        envvar="FRAUDOPS_CLUSTER__RELEASE",
        metavar="NAME",
        help="With --on-cluster: the release. [default: the only one in the namespace]",
    ),
    click.Option(
        ["--namespace"],
        envvar="FRAUDOPS_CLUSTER__NAMESPACE",
        metavar="NAME",
        help="With --on-cluster: the namespace. [default: the kubeconfig's]",
    ),
)


def on_cluster(
    template: str, module: str | None = None
) -> Callable[[click.Command], click.Command]:
    """Return a decorator that adds `--on-cluster` to a command.

    The Job is made from the CronJob `<release>-TEMPLATE`. With `module` that program runs instead
    of the template's, with the command's arguments alone. Without it, the command's arguments
    are added to the template's own.
    """

    def decorate(command: click.Command) -> click.Command:
        return ClusterCommand(command, template, module)

    return decorate


class ClusterCommand(click.Command):
    """A command that runs here, or with `--on-cluster` as a Job."""

    def __init__(self, command: click.Command, template: str, module: str | None) -> None:
        super().__init__(
            command.name,
            callback=self._run,
            params=[*command.params, *cluster_options],
            help=command.help,
        )
        self._local, self._template, self._module = command.callback, template, module
        self._arguments: list[str] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Keep the words as typed: click's parsed values do not show which of them are defaults.
        self._arguments = list(args)
        return super().parse_args(ctx, args)

    def _run(
        self, on_cluster: bool, release: str | None, namespace: str | None, **parameters: Any
    ) -> Any:
        if not on_cluster:
            refuse_cluster_options()
            return self._local(**parameters) if self._local else None
        from fraudops.cluster.runner import JobSpec

        spec = JobSpec(
            template=self._template,
            arguments=arguments_for_the_pod(self._arguments),
            module=self._module,
            environment=environment(),
            shards=parameters.get("shards"),
        )
        return run_as_job(release, namespace, spec)


class ClusterSubcommand(ClusterCommand):
    """A command of a group with `--on-cluster`.

    The Job runs the module of the group. So its first argument is the name of the command.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        self._arguments = [str(self.name), *self._arguments]
        return rest


def refuse_cluster_options() -> None:
    """Raise SettingsError if --release or --namespace was typed without --on-cluster."""
    context = click.get_current_context()
    for name in ("release", "namespace"):
        # The same values in the environment are fine: they are settings of the shell.
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise SettingsError(f"--{name} is valid only with --on-cluster")


def arguments_for_the_pod(typed: Sequence[str]) -> list[str]:
    """Return the typed arguments without the options about this machine."""
    kept, rest = [], list(typed)
    while rest:
        word = rest.pop(0)
        name, assigned, _ = word.partition("=")
        if name not in LOCAL_OPTIONS:
            kept.append(word)
        elif not assigned:
            # `--state FOLDER` has its value in the next word, `--state=FOLDER` in its own.
            del rest[: LOCAL_OPTIONS[name]]
    return kept


def run_as_job(release: str | None, namespace: str | None, spec: "JobSpec") -> int:
    """Run the Job, copy its output and return the exit code of its last try.

    Ctrl-C leaves the Job running and prints how to follow it.
    """
    follower = JobFollower(spec)
    try:
        return asyncio.run(follower.run(release, namespace))
    except KeyboardInterrupt:
        if follower.log_command:
            notices.print(f"\nthe Job is still running: {follower.log_command}", markup=False)
        raise click.Abort from None
    finally:
        follower.streams.end()


class JobFollower:
    """Creates one Job and copies its output until it ends."""

    def __init__(self, spec: "JobSpec") -> None:
        self.streams = Streams(last_only="--json" in spec.arguments)
        # Empty until the Job exists. From then on an interrupt leaves the Job running.
        self.log_command = ""
        self._spec = spec

    async def run(self, release: str | None, namespace: str | None) -> int:
        """Create the Job and return the exit code of its last try."""
        from fraudops.cluster.api import Cluster
        from fraudops.cluster.identity import caller
        from fraudops.cluster.runner import JobRunner, find_release, job_of, new_name

        async with Cluster.connect(namespace) as cluster:
            spec = replace(self._spec, requested_by=await caller(cluster))
            runner = JobRunner(cluster, say, self.streams.emit)
            release_name = await find_release(cluster, release)
            program = spec.module.rpartition(".")[2] if spec.module else spec.template
            cronjob = await runner.template(release_name, spec.template)
            job = job_of(cronjob, new_name(release_name, program), spec)
            name = await runner.create(job)
            self.log_command = f"kubectl -n {cluster.namespace} logs -f job/{name}"
            say(f"Job {name} in namespace {cluster.namespace}")
            return await runner.follow(name)


def environment() -> dict[str, str]:
    """Return the variables for the Job: the terminal, and the mark for output."""
    colours = {"FORCE_COLOR": "1"} if output.is_terminal else {}
    return {
        MARK_VARIABLE: "1",
        "COLUMNS": str(output.width),
        **colours,
    }


class Streams:
    """Splits a Job's log into standard output and standard error.

    With `last_only`, standard output gets only the last try's output. The output of an earlier
    try is written to standard error when the next try begins.
    """

    def __init__(self, last_only: bool = False) -> None:
        self._last_only, self._pod = last_only, ""
        self._held: list[str] = []

    def emit(self, pod: str, line: bytes) -> None:
        """Write one line of a pod's log to the stream that it belongs to."""
        if pod != self._pod:
            self._pod = pod
            self._write(sys.stderr)
        text = line.removeprefix(MARK).decode(errors="replace")
        if line.startswith(MARK) and self._last_only:
            self._held.append(text)
        else:
            print(text, file=sys.stdout if line.startswith(MARK) else sys.stderr, flush=True)

    def end(self) -> None:
        """Write the output of the last try."""
        self._write(sys.stdout)

    def _write(self, stream: TextIO) -> None:
        for text in self._held:
            print(text, file=stream, flush=True)
        self._held.clear()
