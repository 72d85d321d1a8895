"""`fraudops status --on-cluster`: what serves in the cluster, each pod's version and epoch, and who
is behind.
"""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from fraudops.terminal import print_table
from jobs.on_cluster import cluster_options
from jobs.runner import any_state_option, json_option, output, print_json, run

if TYPE_CHECKING:
    from fraudops.cluster.overview import Overview, PodReport


async def find(namespace: str | None, release: str | None) -> "Overview":
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.overview import look
    from fraudops.cluster.runner import find_release

    async with Cluster.connect(namespace) as cluster:
        return await look(cluster, await find_release(cluster, release))


def as_mapping(found: "Overview") -> dict[str, Any]:
    """What `--json` prints."""
    record: dict[str, Any] = msgspec.to_builtins(found.record)
    serving = record.get("current")
    return {
        "release": found.release,
        "namespace": found.namespace,
        "serving": serving
        and {name: serving[name] for name in ("epoch", "version", "digest", "by", "at")},
        "mirrored": found.record.alias_epoch == found.record.epoch,
        "alias": found.record.alias_error,
        "reserved": record.get("reserved"),
        "pods": [asdict(pod) | {"behind": pod.name in found.behind} for pod in found.pods],
        "behind": list(found.behind),
        "well": found.well,
    }


def show(found: "Overview") -> None:
    current, reserved = found.record.current, found.record.reserved
    serves = (
        f"version {current.version} serves, epoch {current.epoch}, since {current.at[:19]}Z"
        if current
        else "no model is promoted"
    )
    output.print(f"release {found.release} in namespace {found.namespace}: [bold]{serves}[/]")
    if found.record.alias_error:
        output.print(Text(f"alias: {found.record.alias_error}", "yellow"))
    if reserved:
        output.print(
            f"[yellow]a promotion of version {reserved.version} by {reserved.strategy} is under way, or was left[/] (epoch {reserved.epoch})"
        )
    table = Table(box=None, pad_edge=False)
    for title in ("pod", "ready", "version", "epoch", "workers"):
        table.add_column(
            title,
            min_width=max([len(title), *(len(pod.name) for pod in found.pods if title == "pod")]),
        )
    table.add_column(overflow="fold")
    for pod in found.pods:
        table.add_row(
            pod.name,
            "yes" if pod.ready else "no",
            pod.version or "",
            str(pod.epoch or ""),
            str(len(pod.workers) or ""),
            _remark(found, pod),
        )
    if found.pods:
        print_table(output, table)
    else:
        output.print("[red]no pod of the inference service is there[/]")


def _remark(found: "Overview", pod: "PodReport") -> str:
    remarks = ["[red]behind[/]"] if pod.name in found.behind else []
    remarks += ["on its way out"] if pod.terminating else []
    return ", ".join([*remarks, *([(pod.reason or "").replace("[", r"\[")] if pod.reason else [])])


@click.command(name="status", params=list(cluster_options))
@json_option
@any_state_option
def command(on_cluster: bool, release: str | None, namespace: str | None, as_json: bool) -> int:
    """What serves in the cluster, each pod's version and epoch, and who is behind.

    Exits 75 when not all is well.
    """
    found = asyncio.run(find(namespace, release))
    if as_json:
        print_json(as_mapping(found))
    else:
        show(found)
    return 0 if found.well else 75


if __name__ == "__main__":
    run(command)
