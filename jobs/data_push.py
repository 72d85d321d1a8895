"""`fraudops data push FILE --on-cluster`: a file to the release's data volume."""

import asyncio
from pathlib import Path

import click

from fraudops.errors import RefusedError, SettingsError
from jobs.on_cluster import Streams, cluster_options, say
from jobs.reports.data import download_bar
from jobs.runner import MARK_VARIABLE, any_state_option, json_option, output, print_json


@click.command(name="push", params=list(cluster_options))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--name",
    metavar="NAME",
    help="Its name on the volume. [default: the file that the release trains on]",
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
    """FILE to the data volume of a release, by your kubeconfig; prints its sha256."""
    if not on_cluster:
        raise SettingsError(
            "data push needs --on-cluster; on this machine name the file where it lies: fraudops train --data FILE"
        )
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise SettingsError("--name is the name of a file, not a path")
    size = file.stat().st_size
    path, digest = asyncio.run(_push(file, size, release, namespace, name))
    said = f"{path} on the data volume: {size:,} bytes, sha256 {digest}"
    if as_json:
        print_json({"file": path, "bytes": size, "sha256": digest})
    else:
        output.print(said, markup=False)
    return said


async def _push(
    file: Path, size: int, release: str | None, namespace: str | None, name: str | None
) -> tuple[str, str]:
    """The path on the volume and the sha256 of its content.

    Raises RefusedError when what arrived is something else.
    """
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.runner import JobRunner, JobSpec, find_release, new_name
    from fraudops.cluster.upload import RECEIVER, data_mount, data_name, receiver_of, send

    told: list[str] = []
    streams = Streams()

    def listen(pod: str, line: bytes) -> None:
        text = line.decode(errors="replace")
        if "sha256 " in text:
            told.append(text.rpartition(" ")[2].strip())
        else:
            streams.emit(pod, line)

    async with Cluster.connect(namespace) as cluster:
        runner = JobRunner(cluster, say, listen)
        found = await find_release(cluster, release)
        template = await runner.template(found, "train")
        path = f"{data_mount(template)}/{name or data_name(template)}"
        wanted = JobSpec("train", (path, "--size", str(size)), RECEIVER, {MARK_VARIABLE: "1"})
        with download_bar(file.name) as progress:
            code, digest = await send(
                cluster,
                runner,
                receiver_of(template, new_name(found, "data"), wanted),
                file,
                lambda sent: progress(sent, size),
            )
    if code or told != [digest]:
        raise RefusedError(
            f"{file} did not arrive whole: the volume keeps what it had"
            if code
            else f"{path} is not what was sent: push it again"
        )
    return path, digest
