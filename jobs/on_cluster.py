"""`--on-cluster`: the same command as a Job of the chart, followed from here.

One decorator a command.
"""

import asyncio
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import click

from fraudops.errors import SettingsError
from jobs.runner import MARK_VARIABLE, OUTPUT_MARK, notices, output

MARK = OUTPUT_MARK.encode()
# Of the command line here; in the pod everything lies elsewhere.
OURS = {"--on-cluster": 0, "--release": 1, "--namespace": 1, "--state": 1}
cluster_options: tuple[click.Option, ...] = (
    click.Option(
        ["--on-cluster"],
        is_flag=True,
        help="Run it as a Job of the chart, by your kubeconfig; files that it names lie in the pod.",
    ),
    click.Option(
        ["--release"],
        envvar="FRAUDOPS_CLUSTER__RELEASE",
        metavar="NAME",
        help="With --on-cluster: which one. [default: the only one there]",
    ),
    click.Option(
        ["--namespace"],
        envvar="FRAUDOPS_CLUSTER__NAMESPACE",
        metavar="NAME",
        help="With --on-cluster: where. [default: the kubeconfig's]",
    ),
)


def on_cluster(
    template: str, module: str | None = None
) -> Callable[[click.Command], click.Command]:
    """Gives a command `--on-cluster`: a Job from the CronJob `<release>-TEMPLATE`, with this
    command's arguments after those of the template.

    With `module` that program runs in the template's place, with this command's arguments alone.
    """

    def decorate(command: click.Command) -> click.Command:
        return ClusterCommand(command, template, module)

    return decorate


class ClusterCommand(click.Command):
    """The command, or with `--on-cluster` its Job."""

    def __init__(self, command: click.Command, template: str, module: str | None) -> None:
        super().__init__(
            command.name,
            callback=self._run,
            params=[*command.params, *cluster_options],
            help=command.help,
        )
        self._here, self._template, self._module = command.callback, template, module
        self._given: list[str] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self._given = list(args)
        return super().parse_args(ctx, args)

    def _run(
        self, on_cluster: bool, release: str | None, namespace: str | None, **parameters: Any
    ) -> Any:
        if not on_cluster:
            refuse_cluster_options()
            return self._here(**parameters) if self._here else None
        return run_as_job(
            release,
            namespace,
            self._template,
            self._module,
            arguments_for_the_pod(self._given),
            parameters.get("shards"),
        )


def refuse_cluster_options() -> None:
    """Raises SettingsError when the release or the namespace was typed without `--on-cluster`."""
    context = click.get_current_context()
    for name in ("release", "namespace"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise SettingsError(f"--{name} belongs to --on-cluster")


def arguments_for_the_pod(given: Sequence[str]) -> list[str]:
    """What was typed, without what is about this machine."""
    kept, left = [], list(given)
    while left:
        word = left.pop(0)
        name, assigned, _ = word.partition("=")
        if name not in OURS:
            kept.append(word)
        elif not assigned:
            del left[: OURS[name]]
    return kept


def run_as_job(
    release: str | None,
    namespace: str | None,
    template: str,
    module: str | None,
    arguments: Sequence[str],
    shards: int | None = None,
) -> int:
    """The exit code of the Job's last try. Ctrl-C leaves the Job running."""
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.runner import JobRunner, JobSpec, find_release, job_of, new_name

    started: list[str] = []
    streams = Streams(last_only="--json" in arguments)

    async def go() -> int:
        async with Cluster.connect(namespace) as cluster:
            runner = JobRunner(cluster, say, streams.emit)
            found = await find_release(cluster, release)
            wanted = JobSpec(template, arguments, module, environment(), shards)
            job = job_of(
                await runner.template(found, template),
                new_name(found, module.rpartition(".")[2] if module else template),
                wanted,
            )
            started.append(f"kubectl -n {cluster.namespace} logs -f job/{await runner.create(job)}")
            say(f"Job {job['metadata']['name']} in namespace {cluster.namespace}")
            return await runner.follow(job["metadata"]["name"])

    try:
        return asyncio.run(go())
    except KeyboardInterrupt:
        if started:
            notices.print(f"\nthe Job runs on: {started[0]}", markup=False)
        raise click.Abort from None
    finally:
        streams.end()


def environment() -> dict[str, str]:
    """What the Job is told of whoever waits for it: their name, their terminal's width and colours,
    and to mark its output.
    """
    told = {MARK_VARIABLE: "1", "COLUMNS": str(output.width)}
    try:
        told["LOGNAME"] = getpass.getuser()
    except (KeyError, OSError):
        told["LOGNAME"] = f"uid {os.getuid()}"
    return told | ({"FORCE_COLOR": "1"} if output.is_terminal else {})


class Streams:
    """What the Job wrote to standard output goes to ours, all else to standard error.

    With `last_only` the output of a try that Kubernetes repeated is no output: it goes to
    standard error as well, once the next try has begun.
    """

    def __init__(self, last_only: bool = False) -> None:
        self._last_only, self._pod = last_only, ""
        self._held: list[str] = []

    def emit(self, pod: str, line: bytes) -> None:
        if pod != self._pod:
            self._pod = pod
            self._write(sys.stderr)
        text = line.removeprefix(MARK).decode(errors="replace")
        if line.startswith(MARK) and self._last_only:
            self._held.append(text)
        else:
            print(text, file=sys.stdout if line.startswith(MARK) else sys.stderr, flush=True)

    def end(self) -> None:
        self._write(sys.stdout)

    def _write(self, stream: TextIO) -> None:
        for text in self._held:
            print(text, file=stream, flush=True)
        self._held.clear()


def say(text: str) -> None:
    notices.print(f"[dim]{text.replace('[', chr(92) + '[')}[/]")
