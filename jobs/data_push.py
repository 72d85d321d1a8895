"""`fraudops data push FILE --on-cluster`: copy a file to the release's data volume."""

import asyncio
from pathlib import Path

import click

from fraudops.errors import RefusedError, SettingsError
from jobs.on_cluster import Streams, cluster_options
from jobs.reports.progress import download_bar
from jobs.runner import MARK_VARIABLE, any_state_option, json_option, output, print_json, say


@click.command(name="push", params=list(cluster_options))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the file on the volume. [default: the file that the release trains on]",
)
@json_option
@any_state_option
def push(
    on_cluster: bool,
    release: str | None,
    namespace: str | None,
    file: Path,
    name: str | None,
    as_json: bool,
) -> str:
    """Copy FILE to the data volume of a release, through your kubeconfig, and print its sha256."""
    if not on_cluster:
        raise SettingsError(
            "data push needs --on-cluster; on this machine name the file directly: "
            "fraudops train --data FILE"
        )
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise SettingsError("--name must be the name of a file, not a path")
    size = file.stat().st_size
    path, digest = asyncio.run(_push(file, size, release, namespace, name))
    message = f"{path} on the data volume: {size:,} bytes, sha256 {digest}"
    if as_json:
        print_json({"file": path, "bytes": size, "sha256": digest})
    else:
        output.print(message, markup=False)
    return message


async def _push(
    file: Path, size: int, release: str | None, namespace: str | None, name: str | None
) -> tuple[str, str]:
    """Copy the file and return its path on the volume and the sha256 of its content.

    Raises RefusedError if the volume did not receive the same bytes.
    """
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.runner import JobRunner, JobSpec, find_release, new_name
    from fraudops.cluster.upload import RECEIVER, data_mount, data_name, receiver_of, send

    log = ReceiverLog()
    async with Cluster.connect(namespace) as cluster:
        runner = JobRunner(cluster, say, log.emit)
        release_name = await find_release(cluster, release)
        template = await runner.template(release_name, "train")
        path = f"{data_mount(template)}/{name or data_name(template)}"
        spec = JobSpec(
            template="train",
            arguments=(path, "--size", str(size)),
            module=RECEIVER,
            environment={MARK_VARIABLE: "1"},
        )
        job = receiver_of(template, new_name(release_name, "data"), spec)
        with download_bar(file.name) as progress:
            code, digest = await send(cluster, runner, job, file, lambda sent: progress(sent, size))
    if code:
        raise RefusedError(f"{file} did not arrive complete: the volume keeps what it had")
    if log.digests != [digest]:
        raise RefusedError(f"{path} differs from what was sent: push it again")
    return path, digest


class ReceiverLog:
    """Collects the digest from the receiver's log and passes every other line on."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self._streams = Streams()

    def emit(self, pod: str, line: bytes) -> None:
        text = line.decode(errors="replace")
        if "sha256 " in text:
            self.digests.append(text.rpartition(" ")[2].strip())
        else:
            self._streams.emit(pod, line)
