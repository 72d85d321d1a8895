"""`fraudops status --on-cluster`: the serving model and the state of every pod."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.markup import escape
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


def as_mapping(overview: "Overview") -> dict[str, Any]:
    """Return the object that `--json` prints."""
    record: dict[str, Any] = msgspec.to_builtins(overview.record)
    serving, reserved = record.get("current"), record.get("reserved")
    return {
        "release": overview.release,
        "namespace": overview.namespace,
        "serving": serving
        and {name: serving[name] for name in ("epoch", "version", "digest", "by", "at")},
        "mirrored": overview.record.alias_epoch == overview.record.epoch,
        "alias": overview.record.alias_error,
        "unsigned": overview.record.unsigned,
        "reserved": reserved
        and {name: value for name, value in reserved.items() if not name.startswith("signed_")},
        "pods": [asdict(pod) | {"behind": pod.name in overview.behind} for pod in overview.pods],
        "behind": list(overview.behind),
        "well": overview.well,
    }


def show(overview: "Overview") -> None:
    current, reserved = overview.record.current, overview.record.reserved
    serves = (
        f"version {current.version} serves, epoch {current.epoch}, since {current.at[:19]}Z"
        if current
        else "no model is promoted"
    )
    output.print(f"release {overview.release} in namespace {overview.namespace}: [bold]{serves}[/]")
    if overview.record.alias_error:
        output.print(Text(f"alias: {overview.record.alias_error}", "yellow"))
    if overview.record.unsigned:
        output.print(Text(f"signature: {overview.record.unsigned}", "yellow"))
    if reserved:
        # A reservation outlives a promoter that was killed, so both cases look the same here.
        output.print(
            f"[yellow]a promotion of version {reserved.version} by {reserved.strategy} is running "
            f"or was interrupted[/] (epoch {reserved.epoch})"
        )
    if overview.pods:
        print_table(output, _table(overview))
    else:
        output.print("[red]the inference service has no pods[/]")


def _table(overview: "Overview") -> Table:
    table = Table(box=None, pad_edge=False)
    # Pod names are pasted into kubectl commands, so their column never folds.
    table.add_column("pod", min_width=max(len("pod"), *(len(pod.name) for pod in overview.pods)))
    for title in ("ready", "version", "epoch", "workers"):
        table.add_column(title, min_width=len(title))
    table.add_column(overflow="fold")
    for pod in overview.pods:
        table.add_row(
            pod.name,
            "yes" if pod.ready else "no",
            pod.version or "",
            str(pod.epoch or ""),
            str(len(pod.workers) or ""),
            _remark(overview, pod),
        )
    return table


def _remark(overview: "Overview", pod: "PodReport") -> str:
    remarks = ["[red]behind[/]"] if pod.name in overview.behind else []
    if pod.terminating:
        remarks.append("terminating")
    if pod.reason:
        remarks.append(escape(pod.reason))
    return ", ".join(remarks)


@click.command(name="status", params=list(cluster_options))
@json_option
@any_state_option
def command(on_cluster: bool, release: str | None, namespace: str | None, as_json: bool) -> int:
    """Show the serving version, each pod's version and epoch, and the pods that are behind.

    Exits with 75 if anything is wrong.
    """
    overview = asyncio.run(find(namespace, release))
    if as_json:
        print_json(as_mapping(overview))
    else:
        show(overview)
    return 0 if overview.well else 75


if __name__ == "__main__":
    run(command)
