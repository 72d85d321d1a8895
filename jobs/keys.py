"""`fraudops keys`: list, replace and retire the keys that sign verdicts and waivers.

On one machine the keys are files in the state folder. With `--on-cluster` they are Secrets of the
release, and the command reads and changes them with the rights of your kubeconfig.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Protocol, get_args

import click
from rich.table import Table

from fraudops.errors import SettingsError
from fraudops.settings import ValidateJobSettings
from fraudops.signing.folder import FolderKeys
from fraudops.signing.key_list import KeyEntry, key_to_retire
from fraudops.signing.keys import PublicKey, Purpose, short
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import cluster_options, refuse_cluster_options
from jobs.runner import (
    json_option,
    notices,
    output,
    print_json,
    run,
    state_option,
    target_options,
    warn,
)

# Not a Job: the command itself changes the Secrets.
place_options = [
    click.Option(
        ["--on-cluster"],
        is_flag=True,
        help="Use the Secrets of a release, through your kubeconfig.",
    ),
    *cluster_options[1:],
]
purpose_argument = click.argument("purpose", type=click.Choice(get_args(Purpose)))


class Keys(Protocol):
    """The keys of an installation, on one machine or in a cluster."""

    async def list(self) -> list[KeyEntry]: ...

    async def rotate(self, purpose: Purpose) -> PublicKey: ...

    async def retire(self, entry: KeyEntry) -> None: ...


@asynccontextmanager
async def open_keys(
    on_cluster: bool, release: str | None, namespace: str | None, state: State
) -> AsyncIterator[Keys]:
    """Yield the keys of this machine or of a release. Raises SettingsError if there is none."""
    if not on_cluster:
        refuse_cluster_options()
        signing = ValidateJobSettings.from_environment().signing
        private: dict[Purpose, Any] = {
            "verdict": signing.verdict_key_of(state),
            "waiver": signing.waiver_key_of(state),
        }
        folder = signing.public_keys_of(state)
        if not folder.is_dir():
            raise SettingsError(
                f"{folder} does not exist: `fraudops up` makes the keys, or give --state FOLDER"
            )
        yield FolderKeys(private, folder)
        return
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.keys import ClusterKeys
    from fraudops.cluster.runner import find_release

    async with Cluster.connect(namespace) as cluster:
        yield await ClusterKeys.of(cluster, await find_release(cluster, release))


async def _list(place: dict[str, Any]) -> list[KeyEntry]:
    async with open_keys(**place) as keys:
        return await keys.list()


async def _rotate(place: dict[str, Any], purpose: Purpose) -> tuple[list[KeyEntry], PublicKey]:
    async with open_keys(**place) as keys:
        try:
            before = await keys.list()
        except SettingsError as error:
            # A damaged key is a reason to make a new one.
            warn(str(error))
            before = []
        return before, await keys.rotate(purpose)


async def _retire(place: dict[str, Any], start: str) -> KeyEntry:
    async with open_keys(**place) as keys:
        retired = key_to_retire(await keys.list(), start)
        for entry in retired:
            await keys.retire(entry)
    return retired[0]


@click.group(help="List, rotate and retire the keys that sign verdicts and waivers.")
def command() -> None:
    pass


@command.command(name="list", params=list(place_options))
@json_option
@state_option
def list_keys(as_json: bool, **place: Any) -> None:
    """List the valid keys, and mark the ones that sign now."""
    known = asyncio.run(_list(place))
    if as_json:
        print_json([asdict(entry) for entry in known])
        return
    table = Table("purpose", "key", "file", "", box=None, pad_edge=False)
    for entry in known:
        remark = "signs now" if entry.signs else ""
        # Without a public half every signature of the key is refused.
        remark = remark if entry.file else "[red]signs now, is not valid[/]"
        table.add_row(entry.purpose, short(entry.id), entry.file, remark)
    print_table(output, table)


@command.command(name="rotate", params=list(place_options))
@purpose_argument
@state_option
def rotate(purpose: Purpose, **place: Any) -> str:
    """Make a new key that signs from now on. The old public key stays valid until `retire`."""
    before, key = asyncio.run(_rotate(place, purpose))
    line = f"the {purpose} key {short(key.id)} signs from now on"
    output.print(line, markup=False)
    old = [short(entry.id) for entry in before if entry.purpose == purpose and entry.signs]
    if old:
        where = " --on-cluster" if place["on_cluster"] else target_options(place["state"])
        notices.print(
            f"the key {old[0]} stays valid. When no {purpose} that it signed is needed any more: "
            f"`fraudops keys retire {old[0]}{where}`",
            markup=False,
        )
    if place["on_cluster"]:
        # Kubelet brings a changed Secret into running pods within its sync period and cache time.
        notices.print(
            "pods that run read the new public key within two minutes; until then they refuse "
            "what it signs",
            markup=False,
        )
    return line


@command.command(name="retire", params=list(place_options))
@click.argument("key", metavar="ID")
@state_option
def retire(key: str, **place: Any) -> str:
    """Remove a public key by the start of its id.

    What it has signed is refused from then on, also by pods that start. First bring a version into
    production that another key has signed.
    """
    entry = asyncio.run(_retire(place, key))
    line = f"the {entry.purpose} key {short(entry.id)} is retired: what it signed is refused"
    output.print(line, markup=False)
    return line


if __name__ == "__main__":
    run(command)
